"""Checkpoints: folders that exist completely or not at all. `ring` decides which ones are kept.

A checkpoint is written to a temporary folder, checksummed, synced and renamed. Tensors are stored as safetensors, the
rest as JSON and YAML, so loading a checkpoint executes no code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biggan.errors import CheckpointError
from biggan.files import sha256_of, sync_file, sync_folder
from biggan.runs.ring import (
    PINNED,
    PinnedCheckpoints,
    Ring,
    best_steps,
    pin_before,
    read_pins,
    steps_on_disk,
    write_pins,
)

MANIFEST = "manifest.json"
STATE = "state.json"


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
        (partial / "config.yaml").write_text(checkpoint.config, encoding="utf-8")
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


class Writer:
    """Background thread that writes checkpoints to `root`, one at a time, while training continues.

    Call `wait` before copying the state for `start`, so that at most one copy is in memory. The next `wait` or
    `raise_if_failed` raises an error of the thread (CheckpointError). The thread calls `warn(message)` when a pinned
    checkpoint is removed to stay within `ring.max_bytes`, or when the limit is exceeded.
    """

    def __init__(self, root: Path, ring: Ring, warn: Callable[[str], object]):
        self._root, self._ring, self._warn = root, ring, warn
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def start(self, step: int, checkpoint: Checkpoint) -> None:
        """Start writing `checkpoint`: free space for it, write it, and remove checkpoints that are no longer kept."""
        assert self._pending is None, "wait first"
        self._pending = self._thread.submit(self._write, step, checkpoint)

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        if self._ring.max_bytes:
            thin(self._root, self._ring, self._warn, max_size_bytes(checkpoint))
        save(self._root, step, checkpoint)
        thin(self._root, self._ring, self._warn)

    def pin(self, onset_step: int, good_step: int, reason: str) -> None:
        """Wait until the thread is idle, so that it removes nothing meanwhile, and call `ring.pin_before`."""
        self.wait()
        pin_before(self._root, onset_step, good_step, reason)

    def wait(self) -> None:
        """Wait until the checkpoint that was started is on disk; raises CheckpointError if writing it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def raise_if_failed(self) -> None:
        """Raise CheckpointError if the thread has failed, without waiting for it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Finish the checkpoint that was started and end the thread."""
        self._thread.shutdown()


def load(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Verify and read one checkpoint; `only` restricts the tensor files, named without suffix.

    Raises CheckpointError with the folder's name if a file is missing or damaged.
    """
    reason = find_corruption(folder)
    if reason is not None:
        raise CheckpointError(f"{folder}: {reason}")
    return read(folder, only)


def read(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint as `load` does, without verifying it: `newest_complete` did so, maybe on another process."""
    try:
        files = [f for f in sorted(folder.glob("*.safetensors")) if only is None or f.stem in only]
        return Checkpoint(
            tensors={f.stem: load_file(f) for f in files},
            state=json.loads((folder / STATE).read_text(encoding="utf-8")),
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None


def find_corruption(folder: Path) -> str | None:
    """Return the reason why a checkpoint is corrupt, or None if its files match its manifest byte for byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
                return f"{name} is damaged (its size or checksum differs from the manifest)"
    except OSError as error:
        return f"cannot be read ({error})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({type(error).__name__})"
    return None


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
            quarantined = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(quarantined, ignore_errors=True)
            folder.rename(quarantined)


def remove_after(root: Path, step: int) -> None:
    """Remove the checkpoints after `step`, pinned or not, newest first; if interrupted, the others stay complete.

    Call `Writer.wait` first: no checkpoint may be in progress.
    """
    later = [s for s in reversed(steps_on_disk(root)) if s > step]
    _unpin(root, later)
    for removed in later:
        _remove(root / folder_name(removed))


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
    for quarantined in sorted(root.glob("step_*.damaged")):
        if excess > 0:
            excess -= bytes_in(quarantined)
            _remove(quarantined)
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


def _remove(folder: Path) -> None:
    # Rename first: an interrupted removal must not leave a folder that looks like a checkpoint.
    removed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
