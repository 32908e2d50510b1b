"""Does another form of a generator make the same images?"""

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

MOST_DIFFERENCE = 1e-4
"""Of another form's images, in [-1, 1], from the generator's."""
BATCH_SIZES = (1, 2, 5, 32)


@torch.no_grad()
def worst_difference(generator: Generator, other: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The largest |difference| of images, over random latents and labels, in batches of each of BATCH_SIZES.

    Both take z [N, z_dim] and y [N] on the CPU. NaN, or another shape of images, is infinitely different.
    """
    worst = 0.0
    for size in BATCH_SIZES:
        random = keyed_generator("agreement", size)
        z = torch.randn(size, generator.z_dim, generator=random)
        y = torch.randint(generator.classes, (size,), generator=random)
        expected, found = generator(z, y), other(z, y)
        if found.shape != expected.shape or not found.isfinite().all():
            return float("inf")
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def check_agreement(generator: Generator, other: Callable[[Tensor, Tensor], Tensor], name: str) -> float:
    """`worst_difference`; raises InputError, which names the format, if that is more than MOST_DIFFERENCE."""
    worst = worst_difference(generator, other)
    if not worst <= MOST_DIFFERENCE:
        raise InputError(
            f"--format {name}: its images differ by {worst:.2g} from the generator's, more than {MOST_DIFFERENCE:g}: "
            f"nothing is written; leave this format out"
        )
    return worst


FILE = "generator.pt2"


def example(sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor]:
    """z and y of a batch of two: of one, torch.export would take the size for a constant."""
    return torch.zeros(2, sampler.z_dim), torch.zeros(2, dtype=torch.int64)


def batch_axis() -> dict[str, dict[int, torch.export.Dim]]:
    """Of both arguments the first axis may have any size."""
    batch = torch.export.Dim("batch", min=1)
    return {"z": {0: batch}, "y": {0: batch}}


def write(folder: Path, sampler: Sampler) -> dict[str, Any]:
    """Write it, and read it back to compare with the generator: (z [N, z_dim], y [N]) -> images, for any N."""
    with torch.no_grad():
        program = torch.export.export(sampler.network, example(sampler), dynamic_shapes=batch_axis())
    torch.export.save(program, folder / FILE)
    read = torch.export.load(folder / FILE).module()
    worst = check_agreement(sampler.network, read, "torch-export")
    return {"file": FILE, "truncation": truncation_key(sampler.truncation), "max_abs_difference": worst}
