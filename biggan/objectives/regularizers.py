"""Penalties on weights, and on D's gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """E||grad_x D(x)||^2 / 2 over real images [n, 3, R, R] (Mescheder et al. 2018, equation 9, without gamma).

    A scalar in the precision of the images, differentiable through D. The logits [n] must have been computed from these
    very images, which require grad, inside `twice_differentiable`.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


@contextmanager
def twice_differentiable(wanted: bool) -> Iterator[None]:
    """Forward passes whose gradient can be differentiated: no fused attention and no compiled code has that."""
    if not wanted:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield
