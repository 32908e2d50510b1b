import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from biggan.evaluation import manifold as module
from biggan.evaluation.manifold import Manifold, manifold, nearest

pytestmark = pytest.mark.numeric


SQUARES_CANCEL = 1e-9
"""Relative: |x|^2 + |y|^2 - 2 x.y is at least 1e-3 of its terms here, whose rounding is 1e-15."""


@pytest.fixture(params=[7, 64, 2048], autouse=True)
def block_rows(request, monkeypatch):
    """Block sizes that end within, at and beyond the rows."""
    monkeypatch.setattr(module, "BLOCK_ROWS", request.param)


def drawn(rows, seed, scale=1.0, dim=6):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * scale


def exact_distances(x, y):
    return (x.double()[:, None] - y.double()).square().sum(-1).sqrt()


def brute_force(real, fake, k):
    """Reference: each definition on all distances at once."""

    def radii(x):
        return exact_distances(x, x).sort(1).values[:, k]  # the first is the row itself

    between = exact_distances(real, fake)
    in_real = between <= radii(real)[:, None]
    return Manifold(
        precision=float(in_real.any(0).double().mean()),
        recall=float((between <= radii(fake)).any(1).double().mean()),
        density=float(in_real.sum()) / (k * len(fake)),
        coverage=float((between.min(1).values <= radii(real)).double().mean()),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_equals_brute_force(k, scale):
    real, fake = drawn(130, 0), drawn(90, 1, scale) + 0.3
    assert manifold(real, fake, k) == brute_force(real, fake, k)


def test_precision_and_recall_equal_torch_fidelity():
    real, fake = drawn(128, 2), drawn(100, 3, 0.8)
    expected = calculate_precision_recall_full(fake, real, neighborhood=3)
    found = manifold(real, fake, 3)
    assert (found.precision, found.recall) == pytest.approx(expected, rel=1e-6)  # shares, theirs in float32


def test_a_copy_of_distinct_rows_has_perfect_metrics():
    """Each copy lies in the ball of its original and, on average, in 5 others."""
    real = drawn(120, 4, dim=40)
    assert manifold(real, real.clone(), 5) == Manifold(1, 1, 6 / 5, 1)
    far, order = real.double() + 1e7, torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert manifold(far, far[order], 5) == Manifold(1, 1, 6 / 5, 1)


def test_distant_sets_do_not_overlap():
    assert manifold(drawn(80, 5), drawn(80, 6) + 100) == Manifold(0, 0, 0, 0)


def test_mode_loss_lowers_recall_and_noise_lowers_precision():
    """One mode of two gives high precision and half the coverage; half noise gives half the precision."""
    shift = torch.tensor([50.0] + [0] * 5)
    real = torch.cat([drawn(100, 7), drawn(100, 8) + shift])
    one_mode = manifold(real, drawn(200, 9))
    assert one_mode.precision > 0.9
    assert one_mode.recall < 0.55
    assert one_mode.coverage < 0.55
    noisy = manifold(real, torch.cat([real[::2] + 0.01 * drawn(100, 10), drawn(100, 11) - shift]))
    assert noisy.precision == pytest.approx(0.5, abs=0.05)
    assert noisy.coverage > 0.9


def test_a_real_outlier_inflates_precision_but_not_density():
    """This motivated density (Naeem et al. 2020, figure 2): the large ball of a real outlier contains many rows."""
    real = torch.cat([drawn(99, 12), torch.full((1, 6), 8.0)])
    found = manifold(real, drawn(100, 13, 0.1) + 5)
    assert found.precision > 0.9
    assert found.density < 0.3


def test_copies_of_duplicate_rows_lie_in_balls_of_radius_zero():
    """Squared distances |x|^2 + |y|^2 - 2 x.y may round to slightly above 0, and the radius here is 0."""
    real = drawn(20, 14, dim=33).repeat_interleave(4, 0) + 1e2
    assert manifold(real, real[::4].repeat(2, 1)[::2], 3).precision == 1
    distances, _ = nearest(real, real, 4)
    assert (distances == 0).all()


def test_nearest_equals_brute_force():
    queries, rows = drawn(33, 15), drawn(141, 16)
    distances, indices = nearest(queries, rows, 9)
    expected = exact_distances(queries, rows).sort(1)
    assert torch.equal(indices, expected.indices[:, :9])
    torch.testing.assert_close(distances, expected.values[:, :9], rtol=SQUARES_CANCEL, atol=0)


def test_nearest_far_from_the_origin():
    """Squares are 1e14 times as large as their differences, which float64 cannot resolve."""
    queries, rows = (1e7 + drawn(20, seed).double() for seed in (17, 18))
    distances, indices = nearest(queries, rows, 3)
    expected = exact_distances(queries, rows).sort(1)
    assert torch.equal(indices, expected.indices[:, :3])
    # Rows of 1e7 are themselves rounded to 1e-9, alike for both: their differences are exact.
    torch.testing.assert_close(distances, expected.values[:, :3], rtol=SQUARES_CANCEL, atol=0)


def test_too_few_rows_for_neighbours_fail_an_assertion():
    with pytest.raises(AssertionError, match=r"5 rows .* 5 neighbours"):
        manifold(drawn(5, 19), drawn(50, 20), 5)
