"""The record of a run's last rollback, which the checkpoint that a run resumes from cannot contain.

A rollback goes back to an earlier checkpoint. The record is written first; then the later checkpoints, of the abandoned
trajectory, are removed. If the process is killed in between, the resumed run removes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biggan.files import write_atomically
from biggan.runs import checkpoint
from biggan.runs.ring import steps_on_disk

FILE = "collapse/rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """The last rollback: the number of rollbacks up to it, and the step it went back to."""

    count: int
    to_step: int


def read(run_dir: Path) -> Rollback | None:
    """Return the run's last rollback; None without one."""
    file = run_dir / FILE
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    return Rollback(record["count"], record["to_step"])


def begin(run_dir: Path, rollback: Rollback) -> None:
    """Write the record; from now on, checkpoints after `rollback.to_step` with a lower count are obsolete."""
    (run_dir / FILE).parent.mkdir(exist_ok=True)
    write_atomically(run_dir / FILE, json.dumps({"count": rollback.count, "to_step": rollback.to_step}) + "\n")


def finish(run_dir: Path, root: Path) -> None:
    """Remove from `root` the checkpoints of the trajectory that the last rollback, maybe interrupted, abandoned."""
    last = read(run_dir)
    if last is not None:
        counts = {rollback_count(root, step) for step in steps_on_disk(root) if step > last.to_step} - {None}
        if counts and last.count not in counts:  # otherwise they were removed and the run has continued since
            checkpoint.remove_after(root, last.to_step)


def rollback_count(root: Path, step: int) -> int | None:
    """Return the number of rollbacks before a checkpoint was written; None if it cannot be read."""
    try:
        state: Mapping[str, Any] = json.loads(
            (root / checkpoint.folder_name(step) / checkpoint.STATE).read_text(encoding="utf-8")
        )
        return int(state.get("rollbacks", 0))
    except (OSError, ValueError):
        return None


def newest_before(root: Path, step: int) -> int | None:
    """Return the step of the newest complete checkpoint in `root` before generator step `step`; None without one."""
    for earlier in reversed([s for s in steps_on_disk(root) if s < step]):
        if checkpoint.find_corruption(root / checkpoint.folder_name(earlier)) is None:
            return earlier
    return None
