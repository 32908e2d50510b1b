"""Exports a generator with torch.export, and compares an exported form's images with the generator's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.errors import InputError
from biggan.generation.sampler import Sampler
from biggan.generation.trained_generator import truncation_key
from biggan.models.networks import Generator
from biggan.random import keyed_generator

FILE = "generator.pt2"
MAX_DIFFERENCE = 1e-4
"""Largest accepted |difference| between an exported form's images and the generator's, which are in [-1, 1]."""
BATCH_SIZES = (1, 2, 5, 32)


@torch.no_grad()
def worst_difference(generator: Generator, other: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the largest |difference| of images, over random latents and labels, in batches of each of BATCH_SIZES.

    Both take z [N, z_dim] and y [N] on the CPU. The difference is infinite for NaN and for another shape of images.
    """
    worst = 0.0
    for size in BATCH_SIZES:
        random = keyed_generator("agreement", size)
        z = torch.randn(size, generator.z_dim, generator=random)
        y = torch.randint(generator.classes, (size,), generator=random)
        expected, actual = generator(z, y), other(z, y)
        if actual.shape != expected.shape or not actual.isfinite().all():
            return float("inf")
        worst = max(worst, float((actual - expected).abs().max()))
    return worst


def check_agreement(generator: Generator, other: Callable[[Tensor, Tensor], Tensor], name: str) -> float:
    """Return `worst_difference`; raise InputError, which names the format, if it exceeds MAX_DIFFERENCE."""
    worst = worst_difference(generator, other)
    if not worst <= MAX_DIFFERENCE:
        raise InputError(
            f"--format {name}: its images differ from the generator's by {worst:.2g}, more than {MAX_DIFFERENCE:g}: "
            f"nothing is written; leave this format out"
        )
    return worst


def example_inputs(sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """Return z and y of a batch of two. With a batch of one, torch.export would make the size a constant."""
    return torch.zeros(2, sampler.z_dim), torch.zeros(2, dtype=torch.int64)


def dynamic_shapes() -> dict[str, dict[int, torch.export.Dim]]:
    """Return the shape specification for torch.export: z and y have a dynamic batch dimension."""
    batch = torch.export.Dim("batch", min=1)
    return {"z": {0: batch}, "y": {0: batch}}


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write `generator.pt2`: z [N, z_dim], y [N] -> images [N, 3, R, R], for any N.

    The file is read back and compared with the generator. Returns its entry of `other_forms` in `generator.json`.
    """
    with torch.no_grad():
        program = torch.export.export(sampler.network, example_inputs(sampler), dynamic_shapes=dynamic_shapes())
    torch.export.save(program, folder / FILE)
    exported = torch.export.load(folder / FILE).module()
    worst = check_agreement(sampler.network, exported, "torch-export")
    return {"file": FILE, "truncation": truncation_key(sampler.truncation), "max_abs_difference": worst}
