"""`metrics.jsonl`: one JSON object per logged step, in order, each step once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from biggan.files import write_atomically


class Metrics:
    """The metrics file of a run that goes on after G step `step`: later rows, from a life that ended, go."""

    def __init__(self, path: Path, step: int):
        self._path = path
        if path.exists():
            write_atomically(path, "".join(line + "\n" for line in _rows_up_to(path, step)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, float]) -> None:
        """Append one row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def set_aside(self, step: int, path: Path) -> None:
        """Move the rows after G step `step` to a file of their own."""
        rows = self._path.read_text(encoding="utf-8").splitlines()
        path.parent.mkdir(exist_ok=True)
        before = (
            path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        )  # killed in here, and come again
        left = {json.loads(row)["step"]: row for row in (*before, *rows) if json.loads(row)["step"] > step}
        write_atomically(path, "".join(f"{left[at]}\n" for at in sorted(left)))
        self._file.close()
        write_atomically(self._path, "".join(f"{row}\n" for row in _rows_up_to(self._path, step)))
        self._file = self._path.open("a", encoding="utf-8")

    def sync(self) -> None:
        """Make the rows durable: before a checkpoint, so that none of its past is missing after a crash."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows_up_to(path: Path, step: int) -> list[str]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off by a crash; its step is logged again
        if row["step"] <= step:
            rows.append(line)
    return rows
