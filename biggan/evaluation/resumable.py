"""Resumable work in units: each process saves its accumulated state at intervals and resumes from it."""

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
    """An accumulator whose state can be saved and restored."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete state, by name."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""


class PartialFile:
    """One process's file of unfinished work. It is valid for the same request on the same number of processes."""

    def __init__(self, folder: Path, request: Mapping[str, Any], process: Process):
        """Name the file after `request`, which JSON can represent and which determines the outcome of the work."""
        self._request = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        name = f"{self._request[:16]}.rank{process.rank}of{process.world_size}.safetensors"
        self._file, self._saved_at = folder / name, time.monotonic()

    def resume(self, accumulator: Resumable) -> int:
        """Restore the saved state if there is one that fits, and return the number of units in it (0 if none)."""
        saved = read_tensors(self._file)
        if saved is None or saved[1].keys() != {"units"} or not fits(saved[0], accumulator.tensors()):
            return 0
        accumulator.restore(saved[0])
        return int(saved[1]["units"])

    def save(self, units: int, accumulator: Resumable, last: bool) -> None:
        """Save the state after `units` units if the interval has passed or they are the last."""
        if last or time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS:
            write_tensors(self._file, accumulator.tensors(), {"units": units})
            self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Remove the file. Call it once the outcome is saved elsewhere."""
        self._file.unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds other processes' files, or was never created
            self._file.parent.rmdir()


def process_units(
    description: str,
    units: Mapping[int, int],
    process_unit: Callable[[int], None],
    accumulator: Resumable,
    partial: PartialFile | None,
    tick: Tick,
) -> None:
    """Call `process_unit`, which adds to `accumulator`, for each of this process's units.

    Units that `partial` holds are skipped. `units` maps each unit to its number of images.
    """
    first = partial.resume(accumulator) if partial else 0
    done = sum(list(units.values())[:first])
    for k, (unit, images) in enumerate(units.items(), 1):
        if k > first:
            process_unit(unit)
            if partial:
                partial.save(k, accumulator, last=k == len(units))
            done += images
            tick(description, done, sum(units.values()))
