"""Latents to sample from: truncated, and keyed per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biggan.training.latents import keyed_generator


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


def draw_latents(numbers: range, z_dim: int, truncation: float | None, seed: int) -> Tensor:
    """float32 [len(numbers), z_dim]; the row of number k depends on (seed, k) alone."""
    rows = [truncated_normal((z_dim,), truncation, keyed_generator("sample", seed, k)) for k in numbers]
    return torch.stack(rows)
