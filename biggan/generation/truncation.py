"""Latent vectors for sampling: truncated, and each with a random key of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biggan.models.networks import Generator
from biggan.random import keyed_generator

SCALED_BOUND = 2.0
"""Bound of latents that truncation scales (`scaled_latents`), before scaling."""


def truncated_normal(shape: tuple[int, ...], truncation: float | None, random: torch.Generator) -> Tensor:
    """Draw float32 values of N(0, 1) within +-`truncation` (Brock et al. 2018, section 3.1); None: without bounds.

    The paper redraws values beyond the bounds. Inverse transform sampling draws from the same distribution, with two
    advantages: no threshold is too small to be reached, and one seed's values move continuously with the truncation.
    """
    assert truncation is None or truncation > 0, "truncation is a positive threshold"
    # The offset puts values between float64 grid points: neither end, whose quantile is infinite, can be drawn.
    uniform = 2 * torch.rand(shape, generator=random, dtype=torch.float64) - 1 + 2**-53
    within = 1.0 if truncation is None else math.erf(truncation / math.sqrt(2))
    return (math.sqrt(2) * torch.erfinv(within * uniform)).float()


def truncated_latents(
    generator: Generator, batch: tuple[int, ...], truncation: float | None, random: torch.Generator
) -> Tensor:
    """Draw latents float32 [*batch, z_dim] in the way this generator defines truncation.

    Values lie within +-`truncation` (None: unbounded). With `scaled_latents` they lie within +-2 and are multiplied by
    `truncation` (None: by 1).
    """
    shape = (*batch, generator.z_dim)
    if not generator.scaled_latents:
        return truncated_normal(shape, truncation, random)
    return truncated_normal(shape, SCALED_BOUND, random) * (1.0 if truncation is None else truncation)


def draw_latents(indices: range, generator: Generator, truncation: float | None, seed: int) -> Tensor:
    """Draw latents float32 [len(indices), z_dim]. The row of index k depends on (seed, k) alone."""
    rows = [truncated_latents(generator, (), truncation, keyed_generator("sample", seed, k)) for k in indices]
    return torch.stack(rows)
