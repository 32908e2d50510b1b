"""The record of a run's last rollback, which the checkpoint that a run resumes from cannot contain.

A rollback goes back to an earlier checkpoint. The record is written first; then the later checkpoints, of the abandoned
trajectory, are set aside. If the process is killed in between, the resumed run sets them aside. They are removed only
when the new trajectory has a checkpoint of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from biggan.errors import CheckpointError
from biggan.files import write_atomically
from biggan.json_file import Count, read_if_present, seal
from biggan.runs import checkpoint
from biggan.runs.ring import steps_on_disk
from biggan.runs.state_file import STATE, read_state

FILE = "collapse/rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """The last rollback: the number of rollbacks up to it, and the step it went back to."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    count: Count
    to_step: Count


def read(run_dir: Path) -> Rollback | None:
    """Return the run's last rollback; None without one. Raises CheckpointError if the record is damaged."""
    fix = "restore it, or choose another run.dir; no checkpoint was touched"
    return read_if_present(run_dir / FILE, Rollback, fix, sealed=True)


def begin(run_dir: Path, rollback: Rollback) -> None:
    """Write the record; from now on, checkpoints after `rollback.to_step` with a lower count are obsolete."""
    (run_dir / FILE).parent.mkdir(exist_ok=True)
    write_atomically(run_dir / FILE, seal({"count": rollback.count, "to_step": rollback.to_step}))


def finish(run_dir: Path, root: Path) -> None:
    """Set aside the checkpoints in `root` of the trajectory that the last rollback, maybe interrupted, abandoned.

    Raises CheckpointError, and touches nothing, if the checkpoint that it went back to is gone or damaged.
    """
    last = read(run_dir)
    if last is None:
        return
    counts = {rollback_count(root, step) for step in steps_on_disk(root) if step > last.to_step} - {None}
    if not counts or last.count in counts:  # they were set aside and the run has continued since
        return
    target = root / checkpoint.folder_name(last.to_step)
    reason = checkpoint.find_corruption(target)
    if reason is not None:
        raise CheckpointError(
            f"{target}: {reason}, and {run_dir / FILE} goes back to it; no checkpoint was touched; restore it, or "
            f"choose another run.dir"
        )
    checkpoint.set_aside_after(root, last.to_step)


def rollback_count(root: Path, step: int) -> int | None:
    """Return the number of rollbacks before a checkpoint was written; None if its state is missing or damaged."""
    state = read_state(root / checkpoint.folder_name(step) / STATE)
    return None if state is None else int(state.get("rollbacks", 0))


def newest_before(root: Path, step: int) -> int | None:
    """Return the step of the newest complete checkpoint in `root` before generator step `step`; None without one."""
    for earlier in reversed([s for s in steps_on_disk(root) if s < step]):
        if checkpoint.find_corruption(root / checkpoint.folder_name(earlier)) is None:
            return earlier
    return None
