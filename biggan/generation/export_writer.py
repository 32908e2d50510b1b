"""Writes the files of an export, of a checkpoint's generator or of one that `biggan import` read.

`generator.safetensors` holds the EMA generator with spectral norm folded in, and standing statistics for several
truncations. `generator.json` holds its description and the checksums. `README.md` is the model card.
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

MAX_DIFFERENCE = 1e-5
"""Largest accepted |difference| between the folded and the trained generator's images, which are in [-1, 1]."""

Addition = Callable[[Path, Sampler], dict[str, Any]]
"""Function that writes another form of the generator into the folder, at the sampler's truncation.

It returns the form's entry in `generator.json`, and raises InputError if the form does not agree with the generator.
"""


@dataclass(frozen=True)
class Content:
    """Content of an export."""

    trained: TrainedGenerator
    architecture: Architecture
    truncations: tuple[float | None, ...]
    """Truncations to store standing statistics for. The samples and the other forms use the first one."""
    license: str
    weights: str
    """Description of the weights, in words."""
    data: str
    """Name of the training data."""
    lineage: Mapping[str, Any] | None
    evaluations: list[dict[str, Any]]
    discriminator: Mapping[str, Tensor] | None
    """Weights of the discriminator as it was trained; None to leave it out."""

    @property
    def batches(self) -> int:
        """Return the number of batches that the missing standing statistics take, for all truncations together."""
        return BATCHES * sum(self.trained.stored_statistics(truncation) is None for truncation in self.truncations)


def write(
    folder: Path, name: str, content: Content, additions: Mapping[str, Addition], on_batch: Callable[[], object]
) -> None:
    """Write the files; `name` is the export's name on the card. `on_batch()` is called `content.batches` times.

    Raises InputError if a form of the generator does not reproduce it, and OSError if a file cannot be written.
    """
    trained = content.trained
    tensors = dict(folded(trained.generator).state_dict())
    for truncation in content.truncations:
        stored = trained.stored_statistics(truncation)
        statistics = trained.at(truncation, on_batch).named_buffers() if stored is None else stored.items()
        prefix = f"{STANDING}{truncation_key(truncation)}/"
        # Cloned: safetensors refuses shared tensors, and the statistics for `none` may be those for 1.
        tensors |= {prefix + name: t.clone() for name, t in statistics if name.split(".")[-1] != "u"}
    _save(tensors, content.architecture, folder / GENERATOR)
    if content.discriminator is not None:
        _save(content.discriminator, content.architecture, folder / DISCRIMINATOR)
    information = describe(content)
    _write_information(folder, information)

    exported = read_export(folder, torch.device("cpu"))
    worst = worst_difference(trained.generator.cpu(), exported.generator)
    if not worst <= MAX_DIFFERENCE:
        raise InputError(
            f"OUT: the folded generator's images differ from the trained one's by {worst:.2g}; nothing is written"
        )
    sampler = Sampler(exported, content.truncations[0])
    information["other_forms"] = {name: addition(folder, sampler) for name, addition in additions.items()}
    model_card.write(folder, name, information, sampler)
    _write_information(folder, information)


def describe(content: Content) -> dict[str, Any]:
    """Return the content of `generator.json` without `other_forms` and `files`."""
    trained = content.trained
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "biggan": version("biggan"),
        "architecture": content.architecture.to_json(),
        "classes": list(trained.classes),
        "weights": content.weights,
        "statistics": {**_protocol(content), "truncations": list(content.truncations)},
        "origin": trained.origin,
        "step": trained.step,
        "images_seen": trained.images_seen,
        "data": content.data,
        "lineage": content.lineage,
        "license": content.license,
        "evaluations": content.evaluations,
    }


def _protocol(content: Content) -> dict[str, Any]:
    """Return how the BatchNorm statistics were computed."""
    if content.architecture.scaled_latents:
        return {"protocol": "as published, by truncation; latents are cut at 2 and multiplied by the truncation"}
    protocol = "standing statistics for each truncation; the running statistics of training are included"
    return {"protocol": protocol, "batches": BATCHES, "batch_images": BATCH_IMAGES}


def _save(tensors: Mapping[str, Tensor], architecture: Architecture, file: Path) -> None:
    """Write a safetensors file, with the architecture's digest in its metadata."""
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": "pt", ARCHITECTURE: architecture.digest()}
    file.write_bytes(save(contiguous, metadata=metadata))  # readable by all; `save_file` creates it for its owner only


def _write_information(folder: Path, information: Mapping[str, Any]) -> None:
    """Write `generator.json`, with sizes and checksums of the files that hold weights (users may edit the card)."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".pt2", ".onnx"))
    recorded = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in files}
    write_atomically(folder / INFORMATION, json.dumps({**information, "files": recorded}, indent=1) + "\n")
