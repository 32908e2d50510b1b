"""Opens the generator that a user names: of a run, of one of its checkpoints, or of an export."""

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
from biggan.runs.state_file import MANIFEST


def open_generator(path: str, device: torch.device, on_corrupt: Callable[[str], object]) -> TrainedGenerator:
    """Return the EMA generator of RUN, RUN@STEP, RUN@best, RUN@good, a checkpoint's folder or an export.

    RUN stands for its newest complete checkpoint; `on_corrupt(message)` is called for each newer one that is corrupt.
    Raises InputError if `path` names nothing or the export is corrupt, CheckpointError if the named checkpoint is.
    """
    if is_export(Path(path)):
        return read_export(Path(path), device)
    return open_checkpoint(find_checkpoint(path, on_corrupt), device)


def open_checkpoint(folder: Path, device: torch.device) -> TrainedGenerator:
    """Return the EMA generator of one checkpoint; raise CheckpointError if it is corrupt."""
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


def find_checkpoint(path: str, on_corrupt: Callable[[str], object]) -> Path:
    """Return the folder of the checkpoint that `path` names, as in `open_generator`.

    Raises InputError if it names none.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return folder
    if is_export(folder):
        raise InputError(f"{path}: is an export already ({INFORMATION}); name the run that it was exported from")
    root = run_folder.checkpoints(folder)
    if root.is_dir() and (newest := checkpoint.newest_complete(root, on_corrupt)):
        return newest
    if "@" in path and not folder.is_dir():
        return lineage.find_ancestor(path, path).checkpoint
    raise InputError(f"{path}: {_why_not_a_generator(folder)}")


def _why_not_a_generator(folder: Path) -> str:
    """Return the rest of an error message: why `folder` has no generator, and the fix."""
    if (folder / run_folder.CONFIG).is_file():
        return f"a run without a complete checkpoint; train it: `biggan train {folder / run_folder.CONFIG}`"
    if folder.exists():
        return "neither a checkpoint nor a run with one, nor an export; look for RUN/checkpoints/step_*"
    beside = [file.parent for name in (run_folder.CONFIG, INFORMATION) for file in folder.parent.glob(f"*/{name}")]
    return f"no such folder{nearest_path(folder, beside) or f'; make a run: `biggan train CONFIG run.dir={folder}`'}"


def run_of(folder: Path) -> Path | None:
    """Return the folder of the run that a checkpoint's folder lies in; None if it was copied elsewhere."""
    run = folder.parent.parent
    in_run = folder.parent == run_folder.checkpoints(run) and (run / run_folder.CONFIG).is_file()
    return run if in_run else None
