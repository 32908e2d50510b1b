"""The file `metrics.jsonl`: one JSON object per logged step, in ascending order, each step once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from biggan.errors import CheckpointError
from biggan.files import MISSING, write_atomically


class Metrics:
    """Metrics file of a run that resumes after generator step `step`; later rows of an earlier process are dropped."""

    def __init__(self, path: Path, step: int):
        self._path = path
        if path.exists():
            write_atomically(path, "".join(line + "\n" for line in _rows_up_to(path, step)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, float]) -> None:
        """Append one row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def move_rows_after(self, step: int, path: Path) -> None:
        """Move the rows after generator step `step` to the file `path`.

        If `path` exists, an earlier call was killed: its rows are kept.
        """
        path.parent.mkdir(exist_ok=True)
        moved = {at: line for at, line in (*_rows(path), *_rows(self._path)) if at > step}
        write_atomically(path, "".join(f"{moved[at]}\n" for at in sorted(moved)))
        self._file.close()
        write_atomically(self._path, "".join(f"{row}\n" for row in _rows_up_to(self._path, step)))
        self._file = self._path.open("a", encoding="utf-8")

    def sync(self) -> None:
        """Flush the rows to disk; call it before a checkpoint, so that no earlier row is missing after a crash."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. What cannot be written now could not be written before, and `write` or `sync` raised that."""
        with suppress(OSError):
            self._file.close()


def last_step(path: Path) -> int:
    """Return the step of the last row of a metrics file; 0 without one."""
    return max((at for at, _line in _rows(path)), default=0)


def _rows_up_to(path: Path, step: int) -> list[str]:
    return [line for at, line in _rows(path) if at <= step]


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (step, line) of every row. A line truncated by a crash, or damaged, is left out: its step is logged again.

    Raises CheckpointError if the file exists and cannot be read.
    """
    try:
        content = path.read_bytes()
    except MISSING:
        return
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); nothing was changed; rerun when it can be read"
        ) from None
    for line in content.split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            yield row["step"], line.decode()
