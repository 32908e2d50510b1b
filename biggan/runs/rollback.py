"""The record of a run's rollbacks: what a resume must know that the checkpoint it starts from cannot say.

A rollback goes back to a checkpoint that was written before it. The record is written first; then the
checkpoints of the path that is left are removed. Whoever is killed in between finishes that when it resumes.
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
    """The last one: the how manieth it was, and the step it went back to."""

    count: int
    to_step: int


def read(run_dir: Path) -> Rollback | None:
    """The run's last rollback; None if it had none."""
    file = run_dir / FILE
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return Rollback(found["count"], found["to_step"])


def begin(run_dir: Path, rollback: Rollback) -> None:
    """Record it: from here on the checkpoints after it, of the path that is left, do not count."""
    (run_dir / FILE).parent.mkdir(exist_ok=True)
    write_atomically(run_dir / FILE, json.dumps({"count": rollback.count, "to_step": rollback.to_step}) + "\n")


def finish(run_dir: Path, root: Path) -> None:
    """Remove what is left in `root` of a path that the last rollback, perhaps interrupted, has left."""
    last = read(run_dir)
    if last is not None:
        found = {count_in(root, step) for step in steps_on_disk(root) if step > last.to_step} - {None}
        if found and last.count not in found:  # else the run has gone on since then, having removed them
            checkpoint.remove_after(root, last.to_step)


def count_in(root: Path, step: int) -> int | None:
    """Rollbacks that a checkpoint has behind it; None if it cannot be read."""
    try:
        state: Mapping[str, Any] = json.loads(
            (root / checkpoint.folder_name(step) / checkpoint.STATE).read_text(encoding="utf-8")
        )
        return int(state.get("rollbacks", 0))
    except (OSError, ValueError):
        return None


def newest_before(root: Path, step: int) -> int | None:
    """The step of the newest whole checkpoint in `root` from before G step `step`."""
    earlier = [s for s in steps_on_disk(root) if s < step]
    return next((s for s in reversed(earlier) if checkpoint.damage(root / checkpoint.folder_name(s)) is None), None)
