"""A generator to hand over: a folder that model hubs and `biggan.load_generator` read.

`generator.safetensors` holds the average (EMA) with spectral norm folded in, and standing statistics for several
truncations; `generator.json` says what it is and has the checksums; `README.md` is the model card.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from biggan.build import architecture
from biggan.errors import InputError
from biggan.files import sha256_of, sync_file, sync_folder, write_atomically
from biggan.generation import card
from biggan.generation.agreement import worst_difference
from biggan.generation.exported import (
    ARCHITECTURE,
    DISCRIMINATOR,
    FORMAT,
    GENERATOR,
    INFORMATION,
    STANDING,
    VERSION,
    read_export,
)
from biggan.generation.load import open_checkpoint, run_of
from biggan.generation.sampler import Sampler
from biggan.generation.series import digest
from biggan.generation.source import Source, truncation_key
from biggan.generation.standing_stats import BATCH_IMAGES, BATCHES, standing_statistics
from biggan.models.architecture import Architecture
from biggan.models.folding import folded
from biggan.preset import resolve
from biggan.training import checkpoint, lineage, run_folder

MOST_DIFFERENCE = 1e-5
"""Of the folded generator's images, in [-1, 1], from the trained one's."""

Addition = Callable[[Path, Sampler], dict[str, Any]]
"""Writes another form of the generator into the folder, for the sampler's truncation; returns what `generator.json` is
to say of it. Raises InputError if the form does not agree with the generator."""


@dataclass(frozen=True)
class Request:
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
    request: Request, additions: Mapping[str, Addition], device: torch.device, on_batch: Callable[[], object]
) -> None:
    """Write the folder, completely or not at all. `on_batch()` is called `batches(request)` times.

    Raises InputError if it is there already, cannot be written, or if any form of the generator would not reproduce it.
    """
    if request.out.exists():
        raise InputError(f"OUT: {request.out} is there already; remove it, or choose another")
    partial = request.out.with_name(f".{request.out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(request, additions, partial, device, on_batch)
        for file in partial.rglob("*"):
            if file.is_file():
                sync_file(file)
        sync_folder(partial)
        partial.rename(request.out)
        sync_folder(request.out.parent)
    except OSError as error:
        raise InputError(f"OUT: {request.out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def batches(request: Request) -> int:
    """Batches that standing statistics take, all truncations together."""
    return len(request.truncations) * BATCHES


def _write(
    request: Request,
    additions: Mapping[str, Addition],
    folder: Path,
    device: torch.device,
    on_batch: Callable[[], object],
) -> None:
    source = open_checkpoint(request.checkpoint, device)
    tensors = dict(folded(source.generator).state_dict())
    for truncation in request.truncations:
        standing = standing_statistics(source.generator, truncation, on_batch=on_batch)
        prefix = f"{STANDING}{truncation_key(truncation)}/"
        tensors |= {prefix + name: buffer for name, buffer in standing.named_buffers() if name.split(".")[-1] != "u"}
    networks = architecture(resolve(request.checkpoint / run_folder.CONFIG).model)
    _save(tensors, networks, folder / GENERATOR)
    if request.discriminator:
        saved = checkpoint.load(request.checkpoint, only={"discriminator"}).tensors["discriminator"]
        _save(saved, networks, folder / DISCRIMINATOR)
    information = describe(request, source)
    _write_information(folder, information)

    exported = read_export(folder, torch.device("cpu"))
    worst = worst_difference(source.generator.cpu(), exported.generator)
    if not worst <= MOST_DIFFERENCE:
        raise InputError(
            f"OUT: the folded generator's images differ by {worst:.2g} from the trained one's; not written"
        )
    sampler = Sampler(exported, request.truncations[0])
    information["other_forms"] = {name: addition(folder, sampler) for name, addition in additions.items()}
    card.write(folder, request.out.name, information, sampler)
    _write_information(folder, information)


def _save(tensors: Mapping[str, Tensor], networks: Architecture, file: Path) -> None:
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": "pt", ARCHITECTURE: networks.digest()}
    file.write_bytes(save(contiguous, metadata=metadata))  # as others may read it; `save_file`'s only its owner


def _write_information(folder: Path, information: Mapping[str, Any]) -> None:
    """`generator.json`, with sizes and checksums of the files that hold weights (a card may be edited)."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".pt2", ".onnx"))
    recorded = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in files}
    write_atomically(folder / INFORMATION, json.dumps({**information, "files": recorded}, indent=1) + "\n")


def describe(request: Request, source: Source) -> dict[str, Any]:
    """What `generator.json` says, but for the files."""
    run = run_of(request.checkpoint)
    parent = None if run is None else lineage.read(run)
    config = resolve(request.checkpoint / run_folder.CONFIG)
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "biggan": version("biggan"),
        "architecture": architecture(config.model).to_json(),
        "classes": list(source.classes),
        "weights": f"average of training (EMA, decay {config.ema.decay:g}), spectral norm folded in",
        "statistics": {
            "protocol": "standing, by truncation; running ones of training beside them",
            "truncations": list(request.truncations),
            "batches": BATCHES,
            "batch_images": BATCH_IMAGES,
        },
        "origin": source.origin,
        "step": source.step,
        "images_seen": source.images_seen,
        "data": Path(config.data.path).name,
        "lineage": None if parent is None else asdict(parent),
        "license": request.license,
        "evaluations": evaluations(request.checkpoint, digest(source.generator)),
    }


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
