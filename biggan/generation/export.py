"""Exports a checkpoint's generator to a folder that model hubs and `biggan.load_generator` read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from biggan.config.preset import resolve
from biggan.errors import InputError, without_credentials
from biggan.files import new_folder
from biggan.generation.bulk import digest
from biggan.generation.export_writer import Addition, Content, write
from biggan.generation.load import open_checkpoint, run_of
from biggan.generation.standing_stats import BATCHES
from biggan.json_file import read_json
from biggan.models.architecture import configured_architecture
from biggan.runs import checkpoint, lineage, run_folder
from biggan.runs.state_file import STATE, read_state


@dataclass(frozen=True)
class ExportRequest:
    """Source, destination and contents of an export."""

    checkpoint: Path
    """Folder of the checkpoint."""
    out: Path
    """Folder to write; must not exist."""
    truncations: tuple[float | None, ...]
    """Truncations to compute standing statistics for. The samples and the other forms use the first one."""
    license: str
    discriminator: bool
    """True to add the discriminator as it was trained, so that training can continue."""


def export(
    request: ExportRequest, additions: Mapping[str, Addition], device: torch.device, on_batch: Callable[[], object]
) -> None:
    """Write the folder, completely or not at all. `on_batch()` is called `batches(request)` times.

    Raises InputError if the folder exists or cannot be written, or if a form of the generator does not reproduce it.
    """
    if request.out.exists():
        raise InputError(f"OUT: {request.out} exists already; remove it or choose another")
    try:
        with new_folder(request.out) as folder:
            write(folder, request.out.name, read_content(request, device), additions, on_batch)
    except OSError as error:
        raise InputError(
            f"OUT: {request.out}: cannot be written ({error.strerror or error}); choose another OUT"
        ) from None


def batches(request: ExportRequest) -> int:
    """Return the number of batches that the standing statistics of all truncations take."""
    return len(request.truncations) * BATCHES


def read_content(request: ExportRequest, device: torch.device) -> Content:
    """Return the export's content, read from the checkpoint; raise CheckpointError if that is corrupt."""
    trained = open_checkpoint(request.checkpoint, device)
    run = run_of(request.checkpoint)
    parent = None if run is None else lineage.read(run)
    config = resolve(request.checkpoint / run_folder.CONFIG)
    discriminator = None
    if request.discriminator:
        discriminator = checkpoint.load(request.checkpoint, only={"discriminator"}).tensors["discriminator"]
    return Content(
        trained=trained,
        architecture=configured_architecture(config.model),
        truncations=request.truncations,
        license=request.license,
        weights=f"EMA weights (decay {config.ema.decay:g}), spectral norm folded in",
        data=Path(without_credentials(config.data.path)).name,
        lineage=None if parent is None else asdict(parent),
        evaluations=read_evaluations(request.checkpoint, digest(trained.generator)),
        discriminator=discriminator,
    )


def read_evaluations(folder: Path, generator: str) -> list[dict[str, Any]]:
    """Return a checkpoint's evaluations: by training, and by `biggan eval` (RUN/evaluation/*.json).

    Results of `biggan eval` are selected by `generator`, the generator's digest: after a rollback the same step is
    another generator. Files without valid results are skipped.
    """
    evaluation = (read_state(folder / STATE) or {}).get("evaluation")
    run, evaluations = run_of(folder), [evaluation] if evaluation else []
    for file in sorted((run / "evaluation").glob("*.json")) if run else ():
        try:
            rows = read_json(file, dict[str, Any])["results"]
            evaluations += [row for row in rows if row.get("generator") == generator and _is_result(row)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return evaluations


def _is_result(row: Mapping[str, Any]) -> bool:
    """Return True if a result has valid values for a model card; raise KeyError or TypeError for another structure."""
    protocol, numbers = row["protocol"], [*row["metrics"].values()]
    if protocol["truncation"] is not None:
        numbers.append(protocol["truncation"])
    return type(protocol["num_images"]) is int and "features" in protocol and all(map(_is_number, numbers))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
