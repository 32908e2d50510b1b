"""Is there room for the checkpoints where they go, and is that one place for all ranks?"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from biggan.config import Config
from biggan.doctor.check import Check, Status, name_ranks, not_reached
from biggan.runs.ring import MAX_PINNED
from biggan.runs.run_folder import checkpoints
from biggan.startup import build


class FolderFacts(BaseModel):
    """What rank 0, which writes the run folder, saw of it."""

    folder: str
    parent: str = ""
    """The folder itself, or the nearest one above it that exists: none is made. Empty: not looked at."""
    free_bytes: int = 0
    held_bytes: int = 0
    """By checkpoints that are there already: the ring takes their place."""
    token: str = ""
    """A file written there, for the others to find; removed at the end."""
    error: str = ""


def look_at_folder(folder: Path) -> FolderFacts:
    """Measure the room and leave a small file. The caller removes it."""
    folder = folder.absolute()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    facts = FolderFacts(folder=str(folder), parent=str(parent))
    token = f".biggan-doctor-{secrets.token_hex(8)}"
    try:
        facts.free_bytes = shutil.disk_usage(parent).free
        facts.held_bytes = _held(checkpoints(folder))
        with (parent / token).open("w", encoding="utf-8") as file:
            facts.token = token
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        facts.error = f"{parent}: cannot be written ({error.strerror})"
    return facts


def sees(facts: FolderFacts) -> bool:
    """Whether this rank reads what rank 0 wrote."""
    try:
        return (Path(facts.parent) / facts.token).read_text(encoding="utf-8") == facts.token
    except OSError:
        return False


def clean_up(facts: FolderFacts) -> None:
    """Remove the small file."""
    if facts.token:
        (Path(facts.parent) / facts.token).unlink(missing_ok=True)


def _held(root: Path) -> int:
    return sum(file.stat().st_size for file in root.glob("step_*/*") if file.is_file())


def ring_bytes(config: Config, checkpoint: int) -> int:
    """The most a run keeps at once: the ring, what one alarm pins, those kept for good and the one being written."""
    keep, steps = config.checkpoint, config.training.steps
    forever = steps // keep.keep_every_steps if keep.keep_every_steps else 0
    cadences = [keep.every_steps, *([config.evaluation.every_steps] if config.evaluation.every_steps else [])]
    at_once = build.ring(config).max_kept(min(cadences)) + MAX_PINNED + forever + 1
    written = sum(steps // every_steps for every_steps in cadences) + 1  # the last one may come out of turn
    most = checkpoint * min(at_once, written)
    return min(most, limit) if (limit := build.ring(config).max_bytes) else most


def check_folder(
    facts: FolderFacts | None,
    seen_by: Mapping[int, bool] | None,
    config: Config | None,
    checkpoint: int,
    hosts: Mapping[int, str],
) -> list[Check]:
    """Rows on the room in the run folder and on who sees it; `checkpoint` is the bytes of one."""
    if facts is None:
        mend = "give --run-dir R or CONFIG"
        return [Check(name, Status.NOT_CHECKED, "", mend) for name in ("disk room", "shared folder")]
    if not facts.parent:
        return [not_reached(name) for name in ("disk room", "shared folder")]
    return [_check_room(facts, config, checkpoint), _check_shared(facts, seen_by, hosts)]


def _check_room(facts: FolderFacts, config: Config | None, checkpoint: int) -> Check:
    name, free = "disk room", f"{facts.free_bytes / 2**30:,.2f} GiB free"
    if facts.error:
        return Check(name, Status.FAIL, facts.error, "another run.dir, or permission to write there")
    if config is None:
        return Check(name, Status.NOT_CHECKED, f"{facts.folder}: {free}", "give CONFIG, which says what a run keeps")
    if 0 < build.ring(config).max_bytes < 2 * checkpoint:
        seen = f"checkpoint.max_gib does not hold two checkpoints of {checkpoint / 2**20:,.1f} MiB"
        return Check(name, Status.FAIL, seen, "raise it: the newest stays until the next one is written")
    need = ring_bytes(config, checkpoint)
    missing = need - facts.held_bytes - facts.free_bytes
    seen = f"{facts.folder}: {free}, the checkpoints take {need / 2**30:,.2f} GiB ({checkpoint / 2**20:,.1f} MiB each)"
    if missing > 0:
        mend = f"free {missing / 2**30:,.2f} GiB, set checkpoint.max_gib, or lower checkpoint.horizon_steps"
        return Check(name, Status.FAIL, seen, mend)
    return Check(name, Status.PASS, seen)


def _check_shared(facts: FolderFacts, seen_by: Mapping[int, bool] | None, hosts: Mapping[int, str]) -> Check:
    name = "shared folder"
    if seen_by is None:
        return not_reached(name)
    if facts.error:
        return Check(name, Status.NOT_CHECKED, "rank 0 could not write there", "mend the row above")
    blind = [rank for rank, seen in seen_by.items() if not seen]
    if blind:
        seen = f"{name_ranks(blind, hosts)} does not see what rank 0 writes to {facts.parent}"
        return Check(name, Status.FAIL, seen, "put run.dir on a file system that all hosts mount at this path")
    return Check(name, Status.PASS, f"{facts.parent}: written by rank 0, seen by {len(seen_by)} rank(s)")
