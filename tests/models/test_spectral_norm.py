"""Spectral normalization against exact singular values and a float64 reference."""

import pytest
import torch
from bounds import SUMS64
from torch.nn import functional as F

from biggan.models.layers import SNConv2d, SNEmbedding, SNLinear, as_matrix

pytestmark = pytest.mark.numeric

LAYERS = [
    lambda: SNConv2d(5, 7, 3, 1e-12),
    lambda: SNLinear(6, 9, 1e-12),
    lambda: SNEmbedding(4, 8, 1e-12),
]


@pytest.mark.parametrize("make", LAYERS)
def test_repeated_forward_passes_make_the_largest_singular_value_one(make):
    layer = make().double()
    for _ in range(500):
        normalized = layer.normalized_weight()
    # (sigma_1 / sigma_0)^1000 is left of the other directions: nothing, with the seed that all tests have.
    assert torch.linalg.svdvals(as_matrix(normalized))[0].item() == pytest.approx(1, abs=1e-9)
    assert layer.u.norm().item() == pytest.approx(1, abs=SUMS64)


@pytest.mark.parametrize("make", LAYERS)
def test_gradient_passes_through_sigma(make):
    """sigma = u^T W v with u, v held constant, differentiated in float64 by hand."""
    layer = make().double()
    upstream = torch.randn_like(layer.weight)
    matrix = layer.weight.detach().reshape(layer.weight.shape[0], -1)
    v = F.normalize(layer.u @ matrix, dim=0)
    u = F.normalize(matrix @ v, dim=0)
    sigma = u @ matrix @ v
    g = upstream.reshape(matrix.shape)
    expected = g / sigma - (g * matrix).sum() / sigma**2 * torch.outer(u, v)
    layer.normalized_weight().backward(upstream)
    torch.testing.assert_close(layer.weight.grad.reshape(matrix.shape), expected)


def test_evaluation_leaves_the_vectors_alone():
    layer = SNConv2d(5, 7, 3, 1e-6).eval()
    before = layer.u.clone()
    layer(torch.randn(2, 5, 4, 4))
    assert torch.equal(layer.u, before)


def test_autocast_does_not_round_sigma():
    layer = SNLinear(64, 64, 1e-6).eval()
    exact = layer.normalized_weight()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.normalized_weight(), exact)


def test_channels_last_weights_are_viewed_not_copied():
    weight = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
    assert as_matrix(weight).data_ptr() == weight.data_ptr()
    values = (torch.linalg.svdvals(matrix.double()) for matrix in (as_matrix(weight), weight.flatten(1)))
    torch.testing.assert_close(*values, rtol=SUMS64, atol=0)
