"""Penalties on weights, and on D's gradient at its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from biggan.models.layers import as_matrix


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


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """Return E||grad_x D(x)||^2 / 2 over real images [n, 3, R, R] (Mescheder et al. 2018, equation 9, without gamma).

    The result is a scalar in the precision of the images, differentiable through D. The logits [n] must come from
    these images, which require grad, in a forward pass inside `twice_differentiable`.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


@contextmanager
def twice_differentiable(wanted: bool) -> Iterator[None]:
    """Make forward passes inside twice differentiable: without fused attention and compiled code, which are not."""
    if not wanted:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield
