"""The averaged generator of a run or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from biggan import build
from biggan.errors import InputError
from biggan.models.biggan import Generator
from biggan.preset import resolve
from biggan.training import checkpoint, run_folder


def load_ema(
    path: Path, device: torch.device, on_damaged: Callable[[str], object]
) -> tuple[Generator, tuple[str, ...]]:
    """The EMA generator, in evaluation mode, and the class names, of a checkpoint or a run's newest whole one.

    `on_damaged(message)` is called for each newer checkpoint that is not whole.
    """
    folder = path
    if not (path / checkpoint.MANIFEST).is_file():
        root = run_folder.checkpoints(path)
        newest = checkpoint.newest_whole(root, on_damaged) if root.is_dir() else None
        if newest is None:
            raise InputError(f"{path}: neither a checkpoint nor a run with one; look for RUN/checkpoints/step_*")
        folder = newest
    saved = checkpoint.load(folder, only={"ema"})
    config = resolve(folder / run_folder.CONFIG)
    generator = build.generator(config.model)
    generator.load_state_dict(saved.tensors["ema"])
    return generator.to(device).eval(), tuple(saved.state["classes"])
