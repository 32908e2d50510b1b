"""Penalties on weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from biggan.models.layers import as_matrix


def orthogonal_penalty(weights: Iterable[Tensor]) -> Tensor:
    """sum over W of ||W W^T * (1 - I)||_F^2, W as [out, rest] (Brock et al. 2018, equation 3).

    Call it, and its backward pass, outside autocast. Its exact gradient is 4 (W W^T * (1 - I)) W; the published
    PyTorch code applies half of that.
    """
    total = None
    for weight in weights:
        w = as_matrix(weight)
        # W W^T and W^T W have the same norm; the generator's first layer has 24,576 rows and 20 columns.
        gram = w @ w.t() if w.shape[0] <= w.shape[1] else w.t() @ w
        penalty = gram.square().sum() - w.square().sum(1).square().sum()
        total = penalty if total is None else total + penalty
    assert total is not None, "no weights to regularize"
    return total


def orthogonal_weights(generator: nn.Module) -> list[nn.Parameter]:
    """Every parameter with two or more axes, except the embedding that all blocks share."""
    shared = getattr(generator, "class_embedding", None)
    excluded = set() if shared is None else {id(p) for p in shared.parameters()}
    return [p for p in generator.parameters() if p.ndim >= 2 and id(p) not in excluded]
