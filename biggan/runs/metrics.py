"""The file `metrics.jsonl`: one JSON object per logged step, in ascending order, each step once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from biggan.files import write_atomically


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
        rows = self._path.read_text(encoding="utf-8").splitlines()
        path.parent.mkdir(exist_ok=True)
        earlier = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        moved = {json.loads(row)["step"]: row for row in (*earlier, *rows) if json.loads(row)["step"] > step}
        write_atomically(path, "".join(f"{moved[at]}\n" for at in sorted(moved)))
        self._file.close()
        write_atomically(self._path, "".join(f"{row}\n" for row in _rows_up_to(self._path, step)))
        self._file = self._path.open("a", encoding="utf-8")

    def sync(self) -> None:
        """Flush the rows to disk; call it before a checkpoint, so that no earlier row is missing after a crash."""
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
            continue  # truncated by a crash; the step is logged again
        if row["step"] <= step:
            rows.append(line)
    return rows
