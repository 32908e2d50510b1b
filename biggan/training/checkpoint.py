"""Checkpoints: folders that exist completely or not at all, and the rules of which are kept.

A checkpoint is written beside its place, synced, checksummed and renamed. Tensors are safetensors and the
rest is JSON and YAML, so loading one executes nothing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biggan.data.dataset import sha256_of
from biggan.errors import CheckpointError
from biggan.files import sync_file, sync_folder

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
    of the thread (CheckpointError) is raised by the next `wait` or `raise_if_failed`.
    """

    def __init__(self, root: Path, keep_last: int, keep_every_steps: int):
        self._root, self._keep_last, self._keep_every_steps = root, keep_last, keep_every_steps
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def start(self, step: int, checkpoint: Checkpoint) -> None:
        """Begin to write `checkpoint` and to remove the ones that are no longer kept."""
        assert self._pending is None, "wait first"
        self._pending = self._thread.submit(self._write, step, checkpoint)

    def _write(self, step: int, checkpoint: Checkpoint) -> None:
        save(self._root, step, checkpoint)
        thin(self._root, self._keep_last, self._keep_every_steps)

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


def steps_on_disk(root: Path) -> list[int]:
    """Steps of the checkpoint folders in `root`, whole or not, ascending."""
    names = (f.name for f in root.iterdir() if f.is_dir())
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


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
    """Remove what an interrupted save or removal left."""
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover, ignore_errors=True)


def set_aside_after(root: Path, step: int) -> None:
    """Rename the checkpoints after `step`: the run goes on from there, and must not count or meet them again."""
    for later in steps_on_disk(root):
        if later > step:
            folder = root / folder_name(later)
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def thin(root: Path, keep_last: int, keep_every_steps: int) -> None:
    """Remove all but the newest `keep_last` checkpoints and those at multiples of `keep_every_steps`."""
    for step in steps_on_disk(root)[:-keep_last]:
        if not keep_every_steps or step % keep_every_steps:
            _remove(root / folder_name(step))


def _replace(partial: Path, final: Path) -> None:
    """Put a complete checkpoint in its place; what is there is damaged, or from a path this run has left."""
    old = final.with_name(f".{final.name}.removed")
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
