"""Latents to sample from: truncated, and keyed per image."""

from __future__ import annotations

import torch
from torch import Tensor

from biggan.training.latents import keyed_generator


def truncated_normal(shape: tuple[int, ...], truncation: float | None, random: torch.Generator) -> Tensor:
    """N(0, 1) with values beyond +-`truncation` drawn again (Brock et al. 2018, section 3.1); None: as is."""
    z = torch.randn(shape, generator=random)
    if truncation is None:
        return z
    assert truncation > 0, "truncation is a positive threshold"
    while (outside := z.abs() > truncation).any():
        z[outside] = torch.randn(int(outside.sum()), generator=random)
    return z


def draw_latents(numbers: range, z_dim: int, truncation: float | None, seed: int) -> Tensor:
    """float32 [len(numbers), z_dim]; the row of number k depends on (seed, k) alone."""
    rows = [truncated_normal((z_dim,), truncation, keyed_generator("sample", seed, k)) for k in numbers]
    return torch.stack(rows)
