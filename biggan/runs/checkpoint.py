"""Checkpoints: folders that exist completely or not at all. `ring` decides which are kept.

A checkpoint is written beside its place, synced, checksummed and renamed. Tensors are safetensors and the
rest is JSON and YAML, so loading one executes nothing.
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
from biggan.runs.ring import PINNED, Pins, Ring, best_steps, pin_before, read_pins, steps_on_disk, write_pins

MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of one checkpoint folder."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """File name without suffix -> tensors by name: contiguous, in host memory."""
    state: Mapping[str, Any]
    """Everything else a resume needs; JSON."""
    config: str
    """The run's resolved config, YAML."""


def folder_name(step: int) -> str:
    """`step_00001000`: sorts by step."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder's name."""
    return int(folder.name.removeprefix("step_"))


def save(root: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `root`/step_*; raises CheckpointError (full disk, no permission) and leaves nothing behind."""
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
            f"{final}: the checkpoint could not be written ({reason}); earlier ones are whole. "
            f"Mend it and run the same command again"
        ) from error
    return final


class Writer:
    """Writes checkpoints on a thread of its own, one at a time, while training goes on.

    Call `wait` before making the copy of the state that `start` takes: so at most one is in memory. An error
    of the thread (CheckpointError) is raised by the next `wait` or `raise_if_failed`. `say(message)` is called, also
    on the thread, when the ring's limit cannot be kept without a pin, or at all.
    """

    def __init__(self, root: Path, ring: Ring, say: Callable[[str], object]):
        self._root, self._ring, self._say = root, ring, say
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def start(self, step: int, checkpoint: Checkpoint) -> None:
        """Begin to make room for `checkpoint`, to write it, and to remove the ones that are no longer kept."""
        assert self._pending is None, "wait first"
        self._pending = self._thread.submit(self._write, step, checkpoint)

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        if self._ring.max_bytes:
            thin(self._root, self._ring, self._say, most_bytes(checkpoint))
        save(self._root, step, checkpoint)
        thin(self._root, self._ring, self._say)

    def pin(self, onset_step: int, good_step: int, reason: str) -> None:
        """`ring.pin_before`, after what was started is on disk: nothing is removed meanwhile."""
        self.wait()
        pin_before(self._root, onset_step, good_step, reason)

    def wait(self) -> None:
        """Until what was started is on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def raise_if_failed(self) -> None:
        """Without waiting."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def close(self) -> None:
        """Finish what was started and end the thread."""
        self._thread.shutdown()


def load(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """Read one checkpoint, of its tensor files `only` some if given.

    Raises CheckpointError that names it if any of it is missing or damaged.
    """
    reason = damage(folder)
    if reason is not None:
        raise CheckpointError(f"{folder}: {reason}")
    return read(folder, only)


def read(folder: Path, only: Collection[str] | None = None) -> Checkpoint:
    """`load` of a checkpoint that `newest_whole` (on another process, say) has just found undamaged."""
    try:
        files = [f for f in sorted(folder.glob("*.safetensors")) if only is None or f.stem in only]
        return Checkpoint(
            tensors={f.stem: load_file(f) for f in files},
            state=json.loads((folder / STATE).read_text(encoding="utf-8")),
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: its files are those of its manifest, byte for byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != expected["bytes"] or sha256_of(file) != expected["sha256"]:
                return f"{name} is damaged (its checksum is not the manifest's)"
    except OSError as error:
        return f"cannot be read ({error})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({type(error).__name__})"
    return None


def newest_whole(root: Path, on_damaged: Callable[[str], object]) -> Path | None:
    """The newest checkpoint that is whole; `on_damaged(message)` is called for each newer one that is not."""
    for step in reversed(steps_on_disk(root)):
        folder = root / folder_name(step)
        reason = damage(folder)
        if reason is None:
            return folder
        on_damaged(f"{folder}: {reason}; falling back to the checkpoint before it")
    return None


def clean_up(root: Path) -> None:
    """Remove what an interrupted save, removal or pinning left; what was about to be replaced is put back."""
    for replaced in root.glob(".step_*.replaced"):
        final = root / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not final.exists():
            replaced.rename(final)
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    (root / f"{PINNED}.partial").unlink(missing_ok=True)


def set_aside_after(root: Path, step: int) -> None:
    """Rename the checkpoints after `step`: the run goes on from there, and must not count or meet them again."""
    for later in steps_on_disk(root):
        if later > step:
            folder = root / folder_name(later)
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def remove_after(root: Path, step: int) -> None:
    """Remove the checkpoints after `step`, pinned or not, the newest first: the run goes back there.

    Interrupted, it leaves the earlier of them whole. Not while a `Writer` is writing: `wait` first.
    """
    later = [s for s in reversed(steps_on_disk(root)) if s > step]
    _unpin(root, later)
    for doomed in later:
        _remove(root / folder_name(doomed))


def thin(root: Path, ring: Ring, say: Callable[[str], object], incoming_bytes: int = 0) -> None:
    """Remove what `ring` does not keep, so that a checkpoint of `incoming_bytes` can be added.

    `say(message)` is called when that takes a pin, or when the ring's limit is exceeded all the same.
    """
    pins, limit = read_pins(root), ring.max_bytes
    bytes_of = {step: bytes_in(root / folder_name(step)) for step in steps_on_disk(root)}
    fixed = {*pins.reasons, *best(root, ring.keep_best)}
    doomed = ring.doomed(bytes_of, fixed, incoming_bytes, pins.good)
    if unpinned := _unpin(root, doomed):
        steps = ", ".join(map(str, unpinned))
        say(f"{root}: checkpoint.max_gib: no room for all that is pinned; step {steps} is given up")
    for step in doomed:
        _remove(root / folder_name(step))
    if not limit or (excess := _bytes_held(root) + incoming_bytes - limit) <= 0:
        return
    for aside in sorted(root.glob("step_*.damaged")):
        if excess > 0:
            excess -= bytes_in(aside)
            _remove(aside)
    if excess > 0:
        say(f"{root}: checkpoint.max_gib: exceeded by {excess / 2**30:.3g} GiB; the newest and the good one stay")


def best(root: Path, most: int) -> list[int]:
    """Steps of the `most` checkpoints in `root` that evaluation found best, best first; none if none was measured."""
    return best_steps((root / folder_name(step) / STATE for step in steps_on_disk(root)), most) if most else []


def _unpin(root: Path, steps: Collection[int]) -> list[int]:
    """Take the pins off `steps`, before they are removed: a pin never names what is not there. Those that had one."""
    pins = read_pins(root)
    unpinned = [step for step in steps if step in pins.reasons]
    if unpinned or pins.good in steps:
        kept = {step: reason for step, reason in pins.reasons.items() if step not in steps}
        write_pins(root, Pins(None if pins.good in steps else pins.good, kept))
    return unpinned


def bytes_in(folder: Path) -> int:
    """The files in `folder` and below, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bytes_held(root: Path) -> int:
    """By all checkpoints in `root`, those that are set aside and what interruptions left included."""
    return sum(bytes_in(folder) for folder in root.iterdir() if folder.is_dir())


def most_bytes(checkpoint: Checkpoint) -> int:
    """What `checkpoint` takes on disk, or some KiB more: tensors and their entries in a header, JSON, manifest."""
    tensors = [(name, t) for file in checkpoint.tensors.values() for name, t in file.items()]
    entries = sum(t.nbytes + len(json.dumps(name)) + 100 for name, t in tensors)
    texts = len(json.dumps(checkpoint.state)) + len(checkpoint.config.encode())
    return entries + texts + 1024 * (1 + len(checkpoint.tensors))


def _replace(partial: Path, final: Path) -> None:
    """Put a complete checkpoint in its place. What is there can be the only one: it can be put back till then."""
    old = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove(folder: Path) -> None:
    # Renamed first: a removal that is interrupted must not leave something that looks like a checkpoint.
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
