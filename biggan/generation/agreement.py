"""Does another form of a generator make the same images?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from biggan.errors import InputError
from biggan.models.networks import Generator
from biggan.training.latents import keyed_generator

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
