"""The limit on sigma_0 against torch.linalg.svd in float64."""

import pytest
import torch
from bounds import FEW_OPERATIONS32

from biggan.models.biggan import BigGANGenerator
from biggan.models.layers import as_matrix, named_weights
from biggan.objectives.spectral import SpectralLimit, excess, leading_vectors
from biggan.objectives.weight_terms import SpectralClamp, SpectralTerm

pytestmark = pytest.mark.numeric

KEPT = torch.zeros(())
MIXED = 1e-3
"""Relative error of sigma where singular values crowd: of the method, not of rounding.

Ten squarings leave (1 - d)^4096 of a direction whose value is d below, which moves sigma by d times that: by 1e-4 at
most, times that direction's part of the start. 1.4e-4 was the most; five squarings would give 5e-3.
"""


def with_singular_values(rows, columns, values, dtype=torch.float32):
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64))[0][:, : len(values)]
    right = torch.linalg.qr(torch.randn(columns, columns, dtype=torch.float64))[0][:, : len(values)]
    return (left * torch.tensor(values, dtype=torch.float64) @ right.t()).to(dtype)


SPECTRA = {
    "apart": [3.0, 1.0, 0.9, 0.5],
    "far apart": [1000.0, 1.0, 0.5],
    "near-degenerate": [1.0001, 1.0, 0.9999, 0.5],
    "1 in 1000 apart": [1.002, 1.001, 1.0, 0.5],
    "degenerate": [2.0, 2.0, 2.0, 1.0],
    "orthogonal": [1.0] * 12,
    "rank 1": [2.0],
    "zero": [0.0],
    "tiny": [1e-7, 5e-8],
}


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (12, 12)])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
def test_leading_values_are_those_of_the_svd(spectrum, shape):
    matrix = with_singular_values(*shape, spectrum)
    exact = torch.linalg.svdvals(matrix.double())
    u, v = leading_vectors(matrix)
    assert (u @ matrix @ v).item() == pytest.approx(exact[0].item(), rel=MIXED, abs=1e-12)
    over, _, _ = excess(matrix, 0.0, 1.0)  # sigma_0 - sigma_1
    assert over.item() == pytest.approx((exact[0] - exact[1]).item(), abs=MIXED * exact[0].item())
    if spectrum[0]:
        torch.testing.assert_close(torch.stack([u.norm(), v.norm()]), torch.ones(2))


def test_leading_values_of_a_random_matrix_whose_singular_values_crowd():
    torch.manual_seed(0)
    matrix = torch.randn(300, 400)
    exact = torch.linalg.svdvals(matrix.double())
    u, v = leading_vectors(matrix)
    # Values 1 in 100 apart are not mixed, but for float32's rounding: 1e-7 of 37 was the most.
    assert (u @ matrix @ v).item() == pytest.approx(exact[0].item(), rel=1e-5)
    assert excess(matrix, 0.0, 1.0)[0].item() == pytest.approx((exact[0] - exact[1]).item(), abs=1e-4 * exact[0].item())


def limit(**settings):
    return SpectralLimit(**{"layers": ("G.*",), "target": 0.0, "ratio": 2.0} | settings)


def clamp(network, veto=KEPT, **settings):
    """Clamp the weights of G, as after an update."""
    SpectralClamp(limit(**settings), "G")(network, veto)


def holder(weight):
    """A network of one weight, G.0."""
    layer = torch.nn.Conv2d(1, 1, 1) if weight.ndim == 4 else torch.nn.Linear(1, 1)
    layer.weight = torch.nn.Parameter(weight)
    return torch.nn.Sequential(layer)


@pytest.mark.parametrize(("target", "ratio", "aim"), [(1.2, 9.0, 1.2), (0.0, 2.0, 2.0), (5.0, 1.0, 5.0)])
def test_penalty_value_and_gradient(target, ratio, aim):
    """2 s (sigma_0 - t) u_0 v_0^T, with no gradient through a target made of sigma_1."""
    matrix = with_singular_values(12, 40, [3.0, 1.0, 0.9, 0.5], torch.float64)
    network = holder(matrix.clone())
    loss = 0.7 * SpectralTerm(limit(target=target, ratio=ratio), "G")(network)
    loss.backward()
    left, _, right = torch.linalg.svd(matrix)
    over = max(0.0, 3.0 - aim)
    assert loss.item() == pytest.approx(0.7 * over**2)
    torch.testing.assert_close(network[0].weight.grad, 0.7 * 2 * over * torch.outer(left[:, 0], right[0]))


def test_clamp_moves_the_largest_singular_value_alone_and_in_place():
    torch.manual_seed(0)
    weight = with_singular_values(8, 45, [3.0, 1.0, 0.9, 0.5]).view(8, 5, 3, 3).to(memory_format=torch.channels_last)
    expected = torch.linalg.svdvals(as_matrix(weight).double())
    expected[0] = 2 * expected[1]
    network = holder(weight)
    clamp(network, ratio=2.0)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        torch.linalg.svdvals(as_matrix(network[0].weight.detach()).double()), expected, rtol=0, atol=FEW_OPERATIONS32
    )


def test_clamp_subtracts_the_outer_product():
    matrix = with_singular_values(40, 12, [3.0, 1.0, 0.9, 0.5], torch.float64)
    left, _, right = torch.linalg.svd(matrix)
    network = holder(matrix.clone())
    clamp(network, target=1.5)
    torch.testing.assert_close(network[0].weight.detach(), matrix - 1.5 * torch.outer(left[:, 0], right[0]))


@pytest.mark.parametrize("spectrum", [[1.0001, 1.0, 0.9999], [1.0, 1.0, 1.0, 0.2]])
def test_repeated_clamps_bring_near_degenerate_values_down_one_by_one(spectrum):
    network = holder(with_singular_values(12, 40, spectrum))
    largest = []
    for _ in range(4):
        clamp(network, target=0.5)
        values = torch.linalg.svdvals(network[0].weight.detach().double())
        assert values[0] <= spectrum[0] + 1e-5, "a clamp never raises anything"  # 1e-5: float32
        largest.append(values[0].item())
    assert largest[-1] == pytest.approx(0.5, abs=MIXED)


@pytest.mark.parametrize("settings", [{"target": 4.0}, {"ratio": 3.1}, {"layers": ("D.*", "G.1*")}])
def test_weights_below_the_target_or_not_chosen_stay_bit_for_bit(settings):
    matrix = with_singular_values(12, 40, [3.0, 1.0])
    network = holder(matrix.clone())
    clamp(network, **settings)
    assert torch.equal(network[0].weight, matrix)


def test_a_row_alone_has_no_second_singular_value_to_be_held_down_to():
    row = torch.randn(1, 40)
    network = holder(row.clone())
    clamp(network)
    assert torch.equal(network[0].weight, row)
    clamp(network, target=0.5)
    assert network[0].weight.norm().item() == pytest.approx(0.5, rel=1e-4)  # float32


def test_a_vetoed_update_is_not_clamped():
    matrix = with_singular_values(12, 40, [3.0, 1.0])
    network = holder(matrix.clone())
    clamp(network, veto=torch.ones(()))
    assert torch.equal(network[0].weight, matrix)


def test_layers_are_named_by_the_module_that_owns_the_weight():
    G = BigGANGenerator(32, 4, 5, 8, 4, True, attention=[16])
    names = named_weights(G, "G")
    assert names["G.blocks.0.bn1.gain"] is G.blocks[0].bn1.gain.weight
    assert names["G.class_embedding"] is G.class_embedding.weight
    assert {id(p) for p in names.values()} == {id(p) for p in G.parameters() if p.ndim >= 2}
