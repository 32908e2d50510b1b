"""The files of an export, from a generator wherever it comes from: a checkpoint, or what `biggan import` read.

`generator.safetensors` holds the average (EMA) with spectral norm folded in, and standing statistics for several
truncations; `generator.json` says what it is and has the checksums; `README.md` is the model card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from biggan.errors import InputError
from biggan.files import sha256_of, write_atomically
from biggan.generation import model_card
from biggan.generation.export_reader import (
    ARCHITECTURE,
    DISCRIMINATOR,
    FORMAT,
    GENERATOR,
    INFORMATION,
    STANDING,
    VERSION,
    read_export,
)
from biggan.generation.sampler import Sampler
from biggan.generation.standing_stats import BATCH_IMAGES, BATCHES
from biggan.generation.torch_export import worst_difference
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.models.architecture import Architecture
from biggan.models.folding import folded

MOST_DIFFERENCE = 1e-5
"""Of the folded generator's images, in [-1, 1], from the trained one's."""

Addition = Callable[[Path, Sampler], dict[str, Any]]
"""Writes another form of the generator into the folder, for the sampler's truncation; returns what `generator.json` is
to say of it. Raises InputError if the form does not agree with the generator."""


@dataclass(frozen=True)
class Content:
    """What goes into an export."""

    source: TrainedGenerator
    networks: Architecture
    truncations: tuple[float | None, ...]
    """Those to hold standing statistics for. The first is that of the samples and of other forms."""
    license: str
    weights: str
    """What kind of weights they are, in words."""
    data: str
    """What they were trained on."""
    lineage: Mapping[str, Any] | None
    evaluations: list[dict[str, Any]]
    discriminator: Mapping[str, Tensor] | None
    """As it was trained, if it is to be in it."""

    @property
    def batches(self) -> int:
        """Batches that standing statistics take, all truncations together."""
        return BATCHES * sum(self.source.held(truncation) is None for truncation in self.truncations)


def write(
    folder: Path, name: str, content: Content, additions: Mapping[str, Addition], on_batch: Callable[[], object]
) -> None:
    """Write the files; the card calls the export `name`. `on_batch()` is called `content.batches` times.

    Raises InputError if any form of the generator would not reproduce it, and OSError.
    """
    source = content.source
    tensors = dict(folded(source.generator).state_dict())
    for truncation in content.truncations:
        held = source.held(truncation)
        statistics = source.at(truncation, on_batch).named_buffers() if held is None else held.items()
        prefix = f"{STANDING}{truncation_key(truncation)}/"
        # Cloned: safetensors takes no tensor twice, and statistics for none may be those for 1.
        tensors |= {prefix + name: t.clone() for name, t in statistics if name.split(".")[-1] != "u"}
    _save(tensors, content.networks, folder / GENERATOR)
    if content.discriminator is not None:
        _save(content.discriminator, content.networks, folder / DISCRIMINATOR)
    information = describe(content)
    _write_information(folder, information)

    exported = read_export(folder, torch.device("cpu"))
    worst = worst_difference(source.generator.cpu(), exported.generator)
    if not worst <= MOST_DIFFERENCE:
        raise InputError(
            f"OUT: the folded generator's images differ by {worst:.2g} from the trained one's; not written"
        )
    sampler = Sampler(exported, content.truncations[0])
    information["other_forms"] = {name: addition(folder, sampler) for name, addition in additions.items()}
    model_card.write(folder, name, information, sampler)
    _write_information(folder, information)


def describe(content: Content) -> dict[str, Any]:
    """What `generator.json` says, but for the files."""
    source = content.source
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "biggan": version("biggan"),
        "architecture": content.networks.to_json(),
        "classes": list(source.classes),
        "weights": content.weights,
        "statistics": {**_protocol(content), "truncations": list(content.truncations)},
        "origin": source.origin,
        "step": source.step,
        "images_seen": source.images_seen,
        "data": content.data,
        "lineage": content.lineage,
        "license": content.license,
        "evaluations": content.evaluations,
    }


def _protocol(content: Content) -> dict[str, Any]:
    if content.networks.scaled_latents:
        return {"protocol": "as published, by truncation; latents are cut at 2 and multiplied by the truncation"}
    protocol = "standing, by truncation; running ones of training beside them"
    return {"protocol": protocol, "batches": BATCHES, "batch_images": BATCH_IMAGES}


def _save(tensors: Mapping[str, Tensor], networks: Architecture, file: Path) -> None:
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": "pt", ARCHITECTURE: networks.digest()}
    file.write_bytes(save(contiguous, metadata=metadata))  # as others may read it; `save_file`'s only its owner


def _write_information(folder: Path, information: Mapping[str, Any]) -> None:
    """`generator.json`, with sizes and checksums of the files that hold weights (a card may be edited)."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".pt2", ".onnx"))
    recorded = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in files}
    write_atomically(folder / INFORMATION, json.dumps({**information, "files": recorded}, indent=1) + "\n")
