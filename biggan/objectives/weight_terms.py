"""Penalties on a network's weights, and the clamp of their largest singular value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biggan.models.layers import as_matrix
from biggan.objectives.seams import WeightTerm
from biggan.objectives.spectral import SpectralLimit, excess


def orthogonal_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Return the sum over weights W [out, rest] of ||W W^T * (1 - I)||_F^2 (Brock et al. 2018, equation 3).

    Call it, and its backward pass, outside autocast. The gradient is exact, 4 (W W^T * (1 - I)) W; the published
    PyTorch code applies half of it.
    """
    total = None
    for weight in weights:
        w = as_matrix(weight)
        # W W^T and W^T W have the same norm, so take the smaller: G's first layer has 24,576 rows and 20 columns.
        gram = w @ w.t() if w.shape[0] <= w.shape[1] else w.t() @ w
        penalty = gram.square().sum() - w.square().sum(1).square().sum()
        total = penalty if total is None else total + penalty
    assert total is not None, "no weights to regularize"
    return total


def orthogonal_weights(generator: nn.Module) -> list[nn.Parameter]:
    """Return every parameter with two or more axes, except the shared class embedding."""
    shared = getattr(generator, "class_embedding", None)
    excluded = set() if shared is None else {id(p) for p in shared.parameters()}
    return [p for p in generator.parameters() if p.ndim >= 2 and id(p) not in excluded]


class OrthogonalTerm(WeightTerm):
    """`orthogonal_penalty` of the generator's weights."""

    name = "orthogonal"

    def __call__(self, network: nn.Module) -> Tensor:
        """Implement `WeightTerm`."""
        return orthogonal_penalty(orthogonal_weights(network))


@dataclass(frozen=True)
class SpectralTerm(WeightTerm):
    """The sum of (sigma_0 - target)^2 over the limited weights above their target."""

    limit: SpectralLimit
    network_name: str
    """G or D: the first part of the layers' names."""
    name = "spectral"

    def __call__(self, network: nn.Module) -> Tensor:
        """Implement `WeightTerm`."""
        limit, weights = self.limit, self.limit.chosen(network, self.network_name)
        excesses = [excess(as_matrix(weight), limit.target, limit.ratio)[0] for weight in weights]
        return torch.stack(excesses).square().sum()


@dataclass(frozen=True)
class SpectralClamp:
    """W <- W - max(0, sigma_0 - target) u_0 v_0^T for the limited weights, after each update."""

    limit: SpectralLimit
    network_name: str
    """G or D: the first part of the layers' names."""

    @torch.no_grad()
    def __call__(self, network: nn.Module, veto: Tensor) -> None:
        """Implement `Constraint`."""
        for weight in self.limit.chosen(network, self.network_name):
            matrix = as_matrix(weight)
            assert matrix.data_ptr() == weight.data_ptr(), "the clamp must act on the weight itself, not on a copy"
            over, u, v = excess(matrix, self.limit.target, self.limit.ratio)
            matrix.add_(torch.outer(u, v * (over * (veto - 1))))
