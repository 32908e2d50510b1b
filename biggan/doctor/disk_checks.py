"""Checks of the run folder: it has room for the checkpoints, and all ranks see the same folder."""

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
    """Facts about the run folder on rank 0, which writes it."""

    folder: str
    parent: str = ""
    """The folder itself, or its nearest existing parent: the doctor creates none. Empty: not examined."""
    free_bytes: int = 0
    held_bytes: int = 0
    """Bytes of existing checkpoints. The ring will replace them."""
    token: str = ""
    """Name of a small file written there for the other ranks to read. Removed at the end."""
    error: str = ""


def inspect_folder(folder: Path) -> FolderFacts:
    """Measure the free room and write the token file. The caller removes it with `remove_token`."""
    folder = folder.absolute()
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    facts = FolderFacts(folder=str(folder), parent=str(parent))
    token = f".biggan-doctor-{secrets.token_hex(8)}"
    try:
        facts.free_bytes = shutil.disk_usage(parent).free
        facts.held_bytes = _checkpoint_bytes(checkpoints(folder))
        with (parent / token).open("w", encoding="utf-8") as file:
            facts.token = token
            file.write(token)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        facts.error = f"{parent}: cannot be written ({error.strerror})"
    return facts


def can_read_token(facts: FolderFacts) -> bool:
    """Return True if this rank can read the file that rank 0 wrote."""
    try:
        return (Path(facts.parent) / facts.token).read_text(encoding="utf-8") == facts.token
    except OSError:
        return False


def remove_token(facts: FolderFacts) -> None:
    """Remove the token file."""
    if facts.token:
        (Path(facts.parent) / facts.token).unlink(missing_ok=True)


def _checkpoint_bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in root.glob("step_*/*") if file.is_file())


def checkpoint_ring_bytes(config: Config, checkpoint: int) -> int:
    """Return the most bytes a run keeps at once, for checkpoints of `checkpoint` bytes each.

    These are the ring, the checkpoints that one alarm pins, those kept permanently, and the one being written.
    """
    keep, steps = config.checkpoint, config.training.steps
    permanent = steps // keep.keep_every_steps if keep.keep_every_steps else 0
    cadences = [keep.every_steps, *([config.evaluation.every_steps] if config.evaluation.every_steps else [])]
    at_once = build.ring(config).max_kept(min(cadences)) + MAX_PINNED + permanent + 1
    written = sum(steps // every_steps for every_steps in cadences) + 1  # the last one may be between two cadences
    most = checkpoint * min(at_once, written)
    return min(most, limit) if (limit := build.ring(config).max_bytes) else most


def check_folder(
    facts: FolderFacts | None,
    token_read: Mapping[int, bool] | None,
    config: Config | None,
    checkpoint: int,
    hosts: Mapping[int, str],
) -> list[Check]:
    """Return the rows `disk room` and `shared folder`. `checkpoint`: bytes of one checkpoint."""
    if facts is None:
        fix = "give --run-dir R or CONFIG"
        return [Check(name, Status.NOT_CHECKED, "", fix) for name in ("disk room", "shared folder")]
    if not facts.parent:
        return [not_reached(name) for name in ("disk room", "shared folder")]
    return [_check_room(facts, config, checkpoint), _check_shared(facts, token_read, hosts)]


def _check_room(facts: FolderFacts, config: Config | None, checkpoint: int) -> Check:
    name, free = "disk room", f"{facts.free_bytes / 2**30:,.2f} GiB free"
    if facts.error:
        return Check(name, Status.FAIL, facts.error, "choose another run.dir, or grant write permission")
    if config is None:
        return Check(name, Status.NOT_CHECKED, f"{facts.folder}: {free}", "give CONFIG: it sets how many a run keeps")
    if 0 < build.ring(config).max_bytes < 2 * checkpoint:
        observed = f"checkpoint.max_gib is less than two checkpoints of {checkpoint / 2**20:,.1f} MiB"
        return Check(
            name, Status.FAIL, observed, "raise it: the newest checkpoint is kept until the next one is complete"
        )
    need = checkpoint_ring_bytes(config, checkpoint)
    missing = need - facts.held_bytes - facts.free_bytes
    observed = (
        f"{facts.folder}: {free}, the checkpoints take {need / 2**30:,.2f} GiB ({checkpoint / 2**20:,.1f} MiB each)"
    )
    if missing > 0:
        fix = f"free {missing / 2**30:,.2f} GiB, set checkpoint.max_gib, or lower checkpoint.horizon_steps"
        return Check(name, Status.FAIL, observed, fix)
    return Check(name, Status.PASS, observed)


def _check_shared(facts: FolderFacts, token_read: Mapping[int, bool] | None, hosts: Mapping[int, str]) -> Check:
    name = "shared folder"
    if token_read is None:
        return not_reached(name)
    if facts.error:
        return Check(name, Status.NOT_CHECKED, "rank 0 could not write there", "fix the row above")
    unable = [rank for rank, could_read in token_read.items() if not could_read]
    if unable:
        observed = f"{name_ranks(unable, hosts)} cannot read what rank 0 writes to {facts.parent}"
        return Check(name, Status.FAIL, observed, "put run.dir on a file system that all hosts mount at this path")
    return Check(name, Status.PASS, f"{facts.parent}: written by rank 0, read by {len(token_read)} rank(s)")
