"""A checkpoint's generator to hand over: a folder that model hubs and `biggan.load_generator` read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from biggan.config.preset import resolve
from biggan.errors import InputError
from biggan.files import new_folder
from biggan.generation.bulk import digest
from biggan.generation.export_writer import Addition, Content, write
from biggan.generation.load import open_checkpoint, run_of
from biggan.generation.standing_stats import BATCHES
from biggan.models.architecture import configured_architecture
from biggan.runs import checkpoint, lineage, run_folder


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to."""

    checkpoint: Path
    """A checkpoint's folder."""
    out: Path
    """The folder to write; must not be there."""
    truncations: tuple[float | None, ...]
    """Those to take standing statistics for. The first is that of the samples and of other forms."""
    license: str
    discriminator: bool
    """Add the discriminator, as it was trained, so that training can go on."""


def export(
    request: ExportRequest, additions: Mapping[str, Addition], device: torch.device, on_batch: Callable[[], object]
) -> None:
    """Write the folder, completely or not at all. `on_batch()` is called `batches(request)` times.

    Raises InputError if it is there already, cannot be written, or if any form of the generator would not reproduce it.
    """
    if request.out.exists():
        raise InputError(f"OUT: {request.out} is there already; remove it, or choose another")
    try:
        with new_folder(request.out) as folder:
            write(folder, request.out.name, content(request, device), additions, on_batch)
    except OSError as error:
        raise InputError(f"OUT: {request.out}: cannot be written ({error.strerror or error})") from None


def batches(request: ExportRequest) -> int:
    """Batches that standing statistics take, all truncations together."""
    return len(request.truncations) * BATCHES


def content(request: ExportRequest, device: torch.device) -> Content:
    """What the export holds, read from the checkpoint; raises CheckpointError if that is damaged."""
    source = open_checkpoint(request.checkpoint, device)
    run = run_of(request.checkpoint)
    parent = None if run is None else lineage.read(run)
    config = resolve(request.checkpoint / run_folder.CONFIG)
    discriminator = None
    if request.discriminator:
        discriminator = checkpoint.load(request.checkpoint, only={"discriminator"}).tensors["discriminator"]
    return Content(
        source=source,
        networks=configured_architecture(config.model),
        truncations=request.truncations,
        license=request.license,
        weights=f"average of training (EMA, decay {config.ema.decay:g}), spectral norm folded in",
        data=Path(config.data.path).name,
        lineage=None if parent is None else asdict(parent),
        evaluations=evaluations(request.checkpoint, digest(source.generator)),
        discriminator=discriminator,
    )


def evaluations(folder: Path, generator: str) -> list[dict[str, Any]]:
    """What is known of a checkpoint: measured while it was trained, or by `biggan eval` (RUN/evaluation/*.json).

    Results are those of `generator`, its digest: after a rollback the same step is another one. Files that hold no
    results are left out.
    """
    state = json.loads((folder / checkpoint.STATE).read_text(encoding="utf-8"))
    run, found = run_of(folder), [state["evaluation"]] if state.get("evaluation") else []
    for file in sorted((run / "evaluation").glob("*.json")) if run else ():
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))["results"]
            found += [row for row in rows if row.get("generator") == generator and _is_result(row)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _is_result(row: Mapping[str, Any]) -> bool:
    """Whether a result has what a model card says of it; raises what looking into something else raises."""
    protocol, numbers = row["protocol"], [*row["metrics"].values()]
    if protocol["truncation"] is not None:
        numbers.append(protocol["truncation"])
    return type(protocol["num_images"]) is int and "features" in protocol and all(map(_is_number, numbers))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
