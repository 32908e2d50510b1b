"""Long work in units that goes on where it was interrupted: what each process has gathered, saved now and then."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from biggan.distributed.process import Process
from biggan.evaluation.tensor_file import fits, read_tensors, write_tensors
from biggan.progress import Tick

SAVE_EVERY_SECONDS = 60.0


class Resumable(Protocol):
    """What units of work add to."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""


class Partial:
    """One process's file of unfinished work; good for the same request on as many processes."""

    def __init__(self, folder: Path, request: Mapping[str, Any], process: Process):
        """`request` (JSON) is all that the work's outcome depends on."""
        self._request = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        name = f"{self._request[:16]}.rank{process.rank}of{process.world_size}.safetensors"
        self._file, self._saved_at = folder / name, time.monotonic()

    def resume(self, tally: Resumable) -> int:
        """Restore what was saved, if anything that fits; the units that it holds."""
        found = read_tensors(self._file)
        if found is None or found[1].keys() != {"units"} or not fits(found[0], tally.tensors()):
            return 0
        tally.restore(found[0])
        return int(found[1]["units"])

    def save(self, units: int, tally: Resumable, last: bool) -> None:
        """After so many units, if it is time, or they are the last."""
        if last or time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS:
            write_tensors(self._file, tally.tensors(), {"units": units})
            self._saved_at = time.monotonic()

    def remove(self) -> None:
        """When what came of it is safe."""
        self._file.unlink(missing_ok=True)
        with suppress(OSError):  # other processes' files are there, or it never was
            self._file.parent.rmdir()


def work_through(
    what: str,
    units: Mapping[int, int],
    do: Callable[[int], None],
    tally: Resumable,
    partial: Partial | None,
    tick: Tick,
) -> None:
    """`do` each of this process's units, which adds to `tally`; those that `partial` holds are not done again.

    `units` says how many images each has.
    """
    first = partial.resume(tally) if partial else 0
    done = sum(list(units.values())[:first])
    for k, (unit, images) in enumerate(units.items(), 1):
        if k > first:
            do(unit)
            if partial:
                partial.save(k, tally, last=k == len(units))
            done += images
            tick(what, done, sum(units.values()))
