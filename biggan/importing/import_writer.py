"""What `biggan import` leaves: a run folder to go on from, where both networks are there, and an export."""

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
"""The export's folder in OUT."""


@dataclass(frozen=True)
class ImportRequest:
    """What to write besides what was found."""

    source: Path
    out: Path
    """The folder to write; must not be there."""
    classes: tuple[str, ...]
    dataset: Dataset | None
    """What training goes on with, if it is known."""
    truncations: tuple[float | None, ...]
    """Those to take standing statistics for; empty: no export."""
    license: str


def content(found: ImportedCheckpoint, generator: Generator, request: ImportRequest) -> Content:
    """What the export holds. Of a generator that has statistics by truncation, all of them."""
    stored = [None if key == truncation_key(None) else float(key) for key in found.standing]
    trained = TrainedGenerator(
        generator=generator,
        classes=request.classes,
        origin=f"{request.source.name}, imported",
        step=found.step,
        images_seen=found.images_seen,
        standing=found.standing,
    )
    return Content(
        trained=trained,
        architecture=found.networks,
        truncations=tuple(dict.fromkeys([*request.truncations, *stored])),
        license=request.license,
        weights=f"imported, of {found.format}; spectral norm folded in",
        data="unknown data" if request.dataset is None else request.dataset.source,
        lineage=None,
        evaluations=[],
        discriminator=None,
    )


def write(found: ImportedCheckpoint, exported: Content, request: ImportRequest, on_batch: Callable[[], object]) -> None:
    """Write OUT, completely or not at all. `on_batch()` is called `exported.batches` times.

    Raises InputError if it is there already or cannot be written.
    """
    out = request.out
    if out.exists():
        raise InputError(f"OUT: {out} is there already; remove it, or choose another")
    try:
        with new_folder(out) as folder:
            if found.is_run:
                _write_run(folder, found, request)
            if request.truncations:
                (folder / EXPORT).mkdir()
                export_writer.write(folder / EXPORT, f"{out.name}/{EXPORT}", exported, {}, on_batch)
    except OSError as error:
        raise InputError(f"OUT: {out}: cannot be written ({error.strerror or error})") from None
    except CheckpointError as error:  # its words are of a run that has earlier ones
        raise InputError(f"OUT: {out}: cannot be written ({' '.join(str(error.__cause__).split())})") from None


def _write_run(folder: Path, found: ImportedCheckpoint, request: ImportRequest) -> None:
    """The config, the data set's description if it is known, and the one checkpoint."""
    assert found.config is not None, "of a run there is one"
    assert found.generator is not None
    assert found.discriminator is not None
    files = {
        "generator": found.generator,
        "discriminator": found.discriminator,
        "ema": found.ema,
        "g_optimizer": found.g_optimizer,
        "d_optimizer": found.d_optimizer,
        **{file: {} for file in ("history", "window", "spectrum")},  # what watches the run begins here
    }
    text = found.config.to_yaml()
    saved = Checkpoint({name: _copies(state) for name, state in files.items()}, _others(found, request), text)
    checkpoint.save(run_folder.checkpoints(folder), found.step or 0, saved)
    write_atomically(folder / run_folder.CONFIG, text)
    if request.dataset is not None:
        write_atomically(folder / FILE_NAME, request.dataset.to_json())


def _others(found: ImportedCheckpoint, request: ImportRequest) -> dict[str, object]:
    """`TrainingState.others` of a run whose data begins anew. How many images' statistics were taken together it does
    not say: with so many as the processes that go on have."""
    assert isinstance(found.config, Config)
    step = found.step or 0
    return {
        "step": step,
        "rollbacks": 0,
        "since_step": step,
        "images_seen": found.images_seen or 0,
        "level": Level.HEALTHY,
        "evaluation": None,
        "cursors": [list(START)] * found.config.data.streams,
        "bad_samples": {},
        "classes": list(request.classes),
    }


def _copies(state: State) -> dict[str, torch.Tensor]:
    return {name: host_copy(tensor) for name, tensor in state.items()}
