"""From what a user names to a generator: a run, one of its checkpoints, or an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from biggan.config.preset import resolve
from biggan.errors import InputError, nearest_path
from biggan.generation.export_reader import INFORMATION, is_export, read_export
from biggan.generation.trained_generator import TrainedGenerator
from biggan.models.architecture import configured_architecture
from biggan.runs import checkpoint, lineage, run_folder


def open_source(path: str, device: torch.device, on_damaged: Callable[[str], object]) -> TrainedGenerator:
    """The averaged generator of RUN (its newest whole checkpoint), RUN@STEP, RUN@best, RUN@good, a checkpoint's folder
    or an export's.

    `on_damaged(message)` is called for each newer checkpoint of RUN that is not whole. Raises InputError if there is no
    such thing or an export is damaged, CheckpointError if the checkpoint that was named is.
    """
    if is_export(Path(path)):
        return read_export(Path(path), device)
    return open_checkpoint(find_checkpoint(path, on_damaged), device)


def open_checkpoint(folder: Path, device: torch.device) -> TrainedGenerator:
    """The averaged generator of one checkpoint; raises CheckpointError if it is damaged."""
    saved = checkpoint.load(folder, only={"ema"})
    generator = configured_architecture(resolve(folder / run_folder.CONFIG).model).generator()
    generator.load_state_dict(saved.tensors["ema"])
    step, run = saved.state["step"], run_of(folder)
    return TrainedGenerator(
        generator=generator.to(device).eval(),
        classes=tuple(saved.state["classes"]),
        origin=str(folder) if run is None else f"{run}@{step}",
        step=step,
        images_seen=saved.state["images_seen"],
        standing={},
        run=run,
    )


def find_checkpoint(path: str, on_damaged: Callable[[str], object]) -> Path:
    """The folder of the checkpoint that `path` names, as `open_source` reads it; InputError if it names none."""
    folder = Path(path)
    if (folder / checkpoint.MANIFEST).is_file():
        return folder
    if is_export(folder):
        raise InputError(f"{path}: is an export already ({INFORMATION}); name the run it was made from")
    root = run_folder.checkpoints(folder)
    if root.is_dir() and (newest := checkpoint.newest_complete(root, on_damaged)):
        return newest
    if "@" in path and not folder.is_dir():
        return lineage.find_ancestor(path, path).checkpoint
    raise InputError(f"{path}: {_what_else(folder)}")


def _what_else(folder: Path) -> str:
    """What a path is that names no generator, and the mend."""
    if (folder / run_folder.CONFIG).is_file():
        return f"a run without a whole checkpoint; train it: `biggan train {folder / run_folder.CONFIG}`"
    if folder.exists():
        return "neither a checkpoint nor a run with one, nor an export; look for RUN/checkpoints/step_*"
    beside = [file.parent for name in (run_folder.CONFIG, INFORMATION) for file in folder.parent.glob(f"*/{name}")]
    return f"no such folder{nearest_path(folder, beside) or f'; make a run: `biggan train CONFIG run.dir={folder}`'}"


def run_of(folder: Path) -> Path | None:
    """The run whose checkpoint `folder` is; None if it was copied elsewhere."""
    run = folder.parent.parent
    at_home = folder.parent == run_folder.checkpoints(run) and (run / run_folder.CONFIG).is_file()
    return run if at_home else None
