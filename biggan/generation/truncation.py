"""Latents to sample from: truncated, and keyed per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biggan.models.networks import Generator
from biggan.random import keyed_generator

SCALED_BOUND = 2.0
"""Where latents are cut of which truncation is the factor."""


def truncated_normal(shape: tuple[int, ...], truncation: float | None, random: torch.Generator) -> Tensor:
    """float32 N(0, 1) within +-`truncation` (Brock et al. 2018, section 3.1); None: without bounds.

    The paper draws values beyond the bounds again. This is the same distribution by its quantile function, with two
    advantages: no threshold is too small to be reached, and one seed's values move continuously with the truncation.
    """
    assert truncation is None or truncation > 0, "truncation is a positive threshold"
    # Between the float64 numbers that are drawn, so that neither end, which has no finite quantile, is met.
    uniform = 2 * torch.rand(shape, generator=random, dtype=torch.float64) - 1 + 2**-53
    within = 1.0 if truncation is None else math.erf(truncation / math.sqrt(2))
    return (math.sqrt(2) * torch.erfinv(within * uniform)).float()


def truncated_latents(
    generator: Generator, batch: tuple[int, ...], truncation: float | None, random: torch.Generator
) -> Tensor:
    """float32 [*batch, z_dim] as this generator's truncation has it: cut at `truncation` (None: not cut), or, with
    `scaled_latents`, cut at 2 and multiplied by it (None: by 1)."""
    shape = (*batch, generator.z_dim)
    if not generator.scaled_latents:
        return truncated_normal(shape, truncation, random)
    return truncated_normal(shape, SCALED_BOUND, random) * (1.0 if truncation is None else truncation)


def draw_latents(numbers: range, generator: Generator, truncation: float | None, seed: int) -> Tensor:
    """float32 [len(numbers), z_dim]; the row of number k depends on (seed, k) alone."""
    rows = [truncated_latents(generator, (), truncation, keyed_generator("sample", seed, k)) for k in numbers]
    return torch.stack(rows)
