"""Write the output of `biggan import`: an export and, if both networks exist, a run folder to continue training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from biggan.collapse.detector import Level
from biggan.config import Config
from biggan.data.dataset import FILE_NAME, Dataset
from biggan.data.stream import START
from biggan.errors import CheckpointError, InputError
from biggan.files import new_folder, write_atomically
from biggan.generation import export_writer
from biggan.generation.export_writer import Content
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State
from biggan.models.networks import Generator
from biggan.runs import checkpoint, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.training.state import host_copy

EXPORT = "export"
"""Name of the export's folder in OUT."""


@dataclass(frozen=True)
class ImportRequest:
    """Arguments of the command that the writer needs besides the imported checkpoint."""

    source: Path
    out: Path
    """The folder to write. It must not exist."""
    classes: tuple[str, ...]
    dataset: Dataset | None
    """The data set to continue training on, if given."""
    truncations: tuple[float | None, ...]
    """Truncations to compute standing statistics for. Empty: no export."""
    license: str


def content(imported: ImportedCheckpoint, generator: Generator, request: ImportRequest) -> Content:
    """Return the content of the export, with all statistics by truncation that the source contains."""
    stored = [None if key == truncation_key(None) else float(key) for key in imported.standing]
    trained = TrainedGenerator(
        generator=generator,
        classes=request.classes,
        origin=f"{request.source.name}, imported",
        step=imported.step,
        images_seen=imported.images_seen,
        standing=imported.standing,
    )
    return Content(
        trained=trained,
        architecture=imported.networks,
        truncations=tuple(dict.fromkeys([*request.truncations, *stored])),
        license=request.license,
        weights=f"imported from {imported.format}; spectral norm folded in",
        data="unknown data" if request.dataset is None else request.dataset.source,
        lineage=None,
        evaluations=[],
        discriminator=None,
    )


def write(
    imported: ImportedCheckpoint, exported: Content, request: ImportRequest, on_batch: Callable[[], object]
) -> None:
    """Write OUT, completely or not at all. `on_batch()` is called `exported.batches` times.

    Raises InputError if OUT exists already or cannot be written.
    """
    out = request.out
    if out.exists():
        raise InputError(f"OUT: {out} exists already; remove it, or choose another folder")
    try:
        with new_folder(out) as folder:
            if imported.is_run:
                _write_run(folder, imported, request)
            if request.truncations:
                (folder / EXPORT).mkdir()
                export_writer.write(folder / EXPORT, f"{out.name}/{EXPORT}", exported, {}, on_batch)
    except OSError as error:
        raise InputError(f"OUT: {out}: cannot be written ({error.strerror or error}); choose another OUT") from None
    except CheckpointError as error:  # its own message is for runs with earlier checkpoints
        raise InputError(
            f"OUT: {out}: cannot be written ({' '.join(str(error.__cause__).split())}); choose another OUT"
        ) from None


def _write_run(folder: Path, imported: ImportedCheckpoint, request: ImportRequest) -> None:
    """Write the config, the data set's description if given, and one checkpoint."""
    assert imported.config is not None, "a run has a config"
    assert imported.generator is not None
    assert imported.discriminator is not None
    files = {
        "generator": imported.generator,
        "discriminator": imported.discriminator,
        "ema": imported.ema,
        "g_optimizer": imported.g_optimizer,
        "d_optimizer": imported.d_optimizer,
        **{file: {} for file in ("history", "window", "spectrum")},  # collapse monitoring starts empty
    }
    text = imported.config.to_yaml()
    saved = Checkpoint({name: _copies(state) for name, state in files.items()}, _others(imported, request), text)
    checkpoint.save(run_folder.checkpoints(folder), imported.step or 0, saved)
    write_atomically(folder / run_folder.CONFIG, text)
    if request.dataset is not None:
        write_atomically(folder / FILE_NAME, request.dataset.to_json())


def _others(imported: ImportedCheckpoint, request: ImportRequest) -> dict[str, object]:
    """Return `TrainingState.others` of a run whose data starts at epoch 0.

    It does not contain the number of images per BatchNorm statistic: that follows from the processes that continue.
    """
    assert isinstance(imported.config, Config)
    step = imported.step or 0
    return {
        "step": step,
        "rollbacks": 0,
        "since_step": step,
        "images_seen": imported.images_seen or 0,
        "level": Level.HEALTHY,
        "evaluation": None,
        "cursors": [list(START)] * imported.config.data.streams,
        "bad_samples": {},
        "classes": list(request.classes),
    }


def _copies(state: State) -> dict[str, torch.Tensor]:
    return {name: host_copy(tensor) for name, tensor in state.items()}
