"""Checkpoints: folders that exist completely or not at all. `ring` decides which ones are kept.

A checkpoint is written to a temporary folder, checksummed, synced and renamed. Tensors are stored as safetensors, the
rest as JSON and YAML, so loading a checkpoint executes no code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biggan.errors import CheckpointError
from biggan.files import MISSING, MalformedFile, sha256_of, sync_file, sync_folder
from biggan.json_file import read_json
from biggan.runs.ring import PINNED, PinnedCheckpoints, Ring, best_steps, read_pins, steps_on_disk, write_pins
from biggan.runs.state_file import MANIFEST, STATE, ListedFile, Manifest, SavedState, unreadable

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of one checkpoint folder."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """File name without suffix -> tensor name -> tensor, contiguous and in host memory."""
    state: Mapping[str, Any]
    """All other state that a resumed run needs; JSON values."""
    config: str
    """Resolved config of the run, as YAML."""


def folder_name(step: int) -> str:
    """Return the folder name of a step, for example `step_00001000`; names sort by step."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(folder.name.removeprefix("step_"))


def save(root: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of `step` to a folder in `root` and return its path.

    Raises CheckpointError (full disk, no permission) and then leaves nothing behind.
    """
    final = root / folder_name(step)
    partial = root / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in checkpoint.tensors.items():
            save_file(dict(tensors), partial / f"{name}.safetensors")
        (partial / STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        (partial / CONFIG).write_text(checkpoint.config, encoding="utf-8")
        files = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
        for file in partial.iterdir():
            sync_file(file)
        sync_folder(partial)
        _replace(partial, final)
    except Exception as error:  # OSError, and safetensors' own error for a failed write
        shutil.rmtree(partial, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{final}: the checkpoint could not be written ({reason}); earlier checkpoints are complete; "
            f"fix it and rerun the same command"
        ) from error
    return final


def load(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Verify and read one checkpoint; `only` restricts the tensor files, named without suffix.

    Raises CheckpointError with the folder's name if a file is missing or damaged.
    """
    reason = find_corruption(folder)
    if reason is not None:
        raise CheckpointError(f"{folder}: {reason}")
    return read(folder, only)


def read(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint like `load`, without verifying it. (`newest_complete` has verified it, on rank 0.)"""
    try:
        files = [f for f in sorted(folder.glob("*.safetensors")) if only is None or f.stem in only]
        return Checkpoint(
            tensors={f.stem: load_file(f) for f in files},
            state=dict(read_json(folder / STATE, SavedState)),
            config=(folder / CONFIG).read_text(encoding="utf-8"),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None


def find_corruption(folder: Path) -> str | None:
    """Return the reason why a checkpoint is corrupt, or None if its files match its manifest byte for byte.

    Raises CheckpointError if the file system does not answer (a stale handle, no permission), which is no damage.
    """
    try:
        files = read_json(folder / MANIFEST, Manifest)["files"]
        if not {STATE, CONFIG} <= files.keys() or any(Path(name).name != name for name in files):
            return f"{MANIFEST} is damaged (it does not list the files of a checkpoint)"
        return next((reason for name, listed in files.items() if (reason := _difference(folder / name, listed))), None)
    except MISSING:
        return f"{MANIFEST} is missing"
    except MalformedFile as error:
        return f"{MANIFEST} is damaged ({error})"
    except OSError as error:
        raise unreadable(folder, error) from None


def _difference(file: Path, listed: ListedFile) -> str | None:
    """Return what is wrong with a file of a checkpoint; None if it matches its entry in the manifest."""
    try:
        if file.is_file() and file.stat().st_size == listed["bytes"] and sha256_of(file) == listed["sha256"]:
            return None
        if file.is_file():
            return f"{file.name} is damaged (its size or checksum differs from the manifest)"
    except MISSING:
        pass
    return f"{file.name} is missing"


def newest_complete(root: Path, on_corrupt: Callable[[str], object]) -> Path | None:
    """Return the newest complete checkpoint, or None; call `on_corrupt(message)` for each newer, corrupt one."""
    for step in reversed(steps_on_disk(root)):
        folder = root / folder_name(step)
        reason = find_corruption(folder)
        if reason is None:
            return folder
        on_corrupt(f"{folder}: {reason}; falling back to the previous checkpoint")
    return None


def clean_up(root: Path) -> None:
    """Remove the leftovers of an interrupted save, removal or pinning; restore a checkpoint that was being replaced."""
    for replaced in root.glob(".step_*.replaced"):
        final = root / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not final.exists():
            replaced.rename(final)
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    (root / f"{PINNED}.partial").unlink(missing_ok=True)


def quarantine_after(root: Path, step: int) -> None:
    """Rename the checkpoints after `step` to `*.damaged`, so that a run that resumes from `step` ignores them."""
    for later in steps_on_disk(root):
        if later > step:
            folder = root / folder_name(later)
            _rename_over(folder, folder.with_name(f"{folder.name}.damaged"))


def set_aside_after(root: Path, step: int) -> None:
    """Rename the checkpoints after `step` to `*.abandoned`, pinned or not, newest first.

    If interrupted, the others stay complete. `remove_abandoned` removes them. Call `Writer.wait` first: no checkpoint
    may be in progress.
    """
    later = [s for s in reversed(steps_on_disk(root)) if s > step]
    _unpin(root, later)
    for abandoned in later:
        folder = root / folder_name(abandoned)
        _rename_over(folder, folder.with_name(f"{folder.name}.abandoned"))


def remove_abandoned(root: Path) -> None:
    """Remove the checkpoints that a rollback set aside, once the new trajectory has one of its own."""
    for abandoned in root.glob("step_*.abandoned"):
        _remove(abandoned)


def thin(root: Path, ring: Ring, warn: Callable[[str], object], incoming_bytes: int = 0) -> None:
    """Remove the checkpoints that `ring` does not keep, so that one of `incoming_bytes` can be added.

    Call `warn(message)` if a pinned checkpoint is removed, or if the limit is still exceeded.
    """
    pins, limit = read_pins(root), ring.max_bytes
    bytes_of = {step: bytes_in(root / folder_name(step)) for step in steps_on_disk(root)}
    fixed = {*pins.reasons, *best(root, ring.keep_best)}
    removed = ring.steps_to_remove(bytes_of, fixed, incoming_bytes, pins.good)
    if unpinned := _unpin(root, removed):
        steps = ", ".join(map(str, unpinned))
        warn(f"{root}: checkpoint.max_gib: no room for all pinned checkpoints; removing step {steps}")
    for step in removed:
        _remove(root / folder_name(step))
    if not limit or (excess := _bytes_held(root) + incoming_bytes - limit) <= 0:
        return
    for unused in (*sorted(root.glob("step_*.abandoned")), *sorted(root.glob("step_*.damaged"))):
        if excess > 0:
            excess -= bytes_in(unused)
            _remove(unused)
    if excess > 0:
        warn(
            f"{root}: checkpoint.max_gib: exceeded by {excess / 2**30:.3g} GiB, "
            f"because the newest and the good checkpoint are kept; raise it"
        )


def best(root: Path, count: int) -> list[int]:
    """Return the steps of the `count` checkpoints in `root` with the best scores, best first; [] without scores."""
    return best_steps((root / folder_name(step) / STATE for step in steps_on_disk(root)), count) if count else []


def _unpin(root: Path, steps: Collection[int]) -> list[int]:
    """Unpin `steps` before they are removed, so that no pin names a missing checkpoint; return the pinned ones."""
    pins = read_pins(root)
    unpinned = [step for step in steps if step in pins.reasons]
    if unpinned or pins.good in steps:
        kept = {step: reason for step, reason in pins.reasons.items() if step not in steps}
        write_pins(root, PinnedCheckpoints(None if pins.good in steps else pins.good, kept))
    return unpinned


def bytes_in(folder: Path) -> int:
    """Return the total size of the files in `folder` and below, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bytes_held(root: Path) -> int:
    """Return the size of all checkpoints in `root` in bytes, including quarantined ones and leftovers."""
    return sum(bytes_in(folder) for folder in root.iterdir() if folder.is_dir())


def max_size_bytes(checkpoint: Checkpoint) -> int:
    """Return an upper bound of the checkpoint's size on disk, in bytes; it is a few KiB too high."""
    tensors = [(name, t) for file in checkpoint.tensors.values() for name, t in file.items()]
    entries = sum(t.nbytes + len(json.dumps(name)) + 100 for name, t in tensors)
    texts = len(json.dumps(checkpoint.state)) + len(checkpoint.config.encode())
    return entries + texts + 1024 * (1 + len(checkpoint.tensors))


def _replace(partial: Path, final: Path) -> None:
    """Rename `partial` to `final`; an old checkpoint there may be the only one and is kept until then."""
    old = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _rename_over(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`, and remove an earlier `target`."""
    if target.exists():
        _remove(target)
    folder.rename(target)


def _remove(folder: Path) -> None:
    # Rename first: an interrupted removal must not leave a folder that looks like a checkpoint.
    removed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
