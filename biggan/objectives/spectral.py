"""The limit on the largest singular value of raw weights (Brock et al. 2018, section 4.1), and how it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.models.layers import as_matrix, named_weights

SQUARINGS = 10
"""Squarings of the Gram matrix. sigma_1 / sigma_0 enters to its 2048th power, so only singular values closer than 1 in
1,000 are mixed; sigma_0 and sigma_1 were never off by more than 3 in 10,000. Cost: 20 n^3 FLOP, n the smaller side."""


@dataclass(frozen=True)
class SpectralLimit:
    """A limit on sigma_0 of some weights: `target`, or if that is 0, `ratio` * stopgrad(sigma_1)."""

    layers: tuple[str, ...]
    """Patterns of layer names as in `named_weights`; `*` matches anything."""
    target: float
    ratio: float

    def chosen(self, network: nn.Module, name: str) -> list[nn.Parameter]:
        """Return the limited weights of the network called `name` (G or D).

        A weight of one row or column has no sigma_1: without a `target` its limit would be zero, so it is left out.
        """
        return [
            weight
            for layer, weight in named_weights(network, name).items()
            if any(fnmatchcase(layer, pattern) for pattern in self.layers)
            and (self.target or min(as_matrix(weight).shape) > 1)
        ]


def excess(matrix: Tensor, target: float, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return max(0, sigma_0 - target) of W [out, rest], with the unit vectors u_0 [out] and v_0 [rest].

    A `target` of 0 stands for `ratio` * stopgrad(sigma_1). sigma_0 = u_0^T W v_0 is differentiable through W only: its
    gradient is u_0 v_0^T, exact for a singular value of multiplicity one.
    """
    matrix = matrix.clone()  # kernels split sums by memory alignment: a copy is aligned alike on every process
    fixed = matrix.detach()
    u, v = leading_vectors(fixed)
    limit: float | Tensor = target
    if not target:
        # Between sigma_1 and sigma_0, however accurate u is.
        rest = fixed - torch.outer(u, u @ fixed)
        u_1, v_1 = leading_vectors(rest)
        limit = ratio * (u_1 @ (rest @ v_1))
    return F.relu(u @ (matrix @ v) - limit), u, v


def leading_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit vectors u [out] and v [rest] of the largest singular value of a float32 or float64 matrix.

    They come from the matrix alone, by repeated squaring. No vectors are kept between steps, so a resumed run, or one
    on other processes, clamps alike. The host never waits for the device, as it would for an eigendecomposition.
    """
    if matrix.shape[0] > matrix.shape[1]:
        v, u = leading_vectors(matrix.t())
        return u, v
    power, tiny = matrix @ matrix.t(), torch.finfo(matrix.dtype).tiny
    for _ in range(SQUARINGS):
        power = power / (power.trace() + tiny)
        power = power @ power
    # `power` is nearly the projection on the leading space, and its longest column is never orthogonal to that space.
    u = power.index_select(1, power.diagonal().argmax(0, keepdim=True)).squeeze(1)
    for _ in range(2):  # on the matrix itself, whose rounding errors were not squared
        v = F.normalize(u @ matrix, dim=0, eps=tiny)
        u = F.normalize(matrix @ v, dim=0, eps=tiny)
    return u, v
