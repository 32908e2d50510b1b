import math

import numpy as np
import pytest
import torch
from bounds import DISTANCE64, SUMS64
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from biggan.evaluation.distances import frechet_distance
from biggan.evaluation.moments import Moments

pytestmark = pytest.mark.numeric


def moments_of(rows):
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments


def stated(tmp_path, mean, covariance):
    """Return moments with exactly this mean and covariance."""
    np.savez(tmp_path / "stated.npz", mu=np.asarray(mean, float), sigma=np.asarray(covariance, float))
    return Moments.from_npz(tmp_path / "stated.npz")


def drawn(rows, dim, seed, spectrum=None):
    """Return rows whose covariance has a given spectrum in a random basis."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=random)).Q
    scales = torch.ones(dim) if spectrum is None else spectrum.sqrt()
    return torch.randn(rows, dim, dtype=torch.float64, generator=random) * scales @ basis + 0.1 * seed


def test_diagonal_gaussians(tmp_path):
    """The distance is |m1 - m2|^2 + sum (s1 - s2)^2, with standard deviations s."""
    m1, s1, m2, s2 = np.random.default_rng(0).uniform(0.1, 2, (4, 9))
    found = frechet_distance(stated(tmp_path, m1, np.diag(s1**2)), stated(tmp_path, m2, np.diag(s2**2)))
    assert found == pytest.approx(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(), rel=SUMS64)


def test_rank_one_gaussians(tmp_path):
    """Covariances u u^T and v v^T contribute |u|^2 + |v|^2 - 2 |u.v|."""
    u, v = np.random.default_rng(1).normal(size=(2, 9))
    found = frechet_distance(stated(tmp_path, u, np.outer(u, u)), stated(tmp_path, v, np.outer(v, v)))
    assert found == pytest.approx(((u - v) ** 2).sum() + u @ u + v @ v - 2 * abs(u @ v), rel=SUMS64)


def test_gaussians_without_spread(tmp_path):
    """The distance of two points is that of the means, squared; a Gaussian against a point adds its variances."""
    point, other = stated(tmp_path, [1, 2, 3], np.zeros((3, 3))), stated(tmp_path, [1, 0, 0], np.zeros((3, 3)))
    assert frechet_distance(point, other) == pytest.approx(13, rel=SUMS64)
    assert frechet_distance(point, stated(tmp_path, [1, 0, 0], np.diag([1, 4, 9]))) == pytest.approx(27, rel=SUMS64)


def test_a_linear_map_of_one_gaussian(tmp_path):
    """For S and T S T, with T symmetric and positive, the optimal map is T: the distance is tr (T - 1) S (T - 1)."""
    rows = drawn(300, 20, 2)
    s = np.cov(rows.numpy(), rowvar=False)
    t = np.cov(drawn(300, 20, 3).numpy(), rowvar=False) + np.eye(20)
    change = t - np.eye(20)
    found = frechet_distance(stated(tmp_path, np.zeros(20), s), stated(tmp_path, np.zeros(20), t @ s @ t))
    assert found == pytest.approx(np.trace(change @ s @ change), rel=DISTANCE64)


@pytest.mark.parametrize("rows", [500, 40], ids=["full rank", "rank 39 of 64"])
def test_equal_gaussians_have_distance_zero(rows):
    moments = moments_of(drawn(rows, 64, 4))
    # The traces and the sum of singular values cancel: rounding of 1e-16, 64 times. A wrong root gives 1e-8.
    assert 0 <= frechet_distance(moments, moments) < SUMS64 * float(moments.covariance.trace())


@pytest.mark.parametrize("decay", [0, 2, 6], ids=lambda decay: f"condition 1e{decay}")
def test_equals_pytorch_fid_and_torch_fidelity(decay):
    spectrum = torch.logspace(0, -decay, 96, dtype=torch.float64)
    a, b = drawn(1500, 96, 5, spectrum), drawn(1500, 96, 6, spectrum)
    found = frechet_distance(moments_of(a), moments_of(b))
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    with pytest.warns(DeprecationWarning, match="disp"):
        pytorch_fid = calculate_frechet_distance(*(s[k] for s in statistics for k in ("mu", "sigma")))
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    # They take roots of eigenvalues of A B, whose rounding is 1e-16 of the largest: at condition 1e6 up to 1e-8.
    assert found == pytest.approx(pytorch_fid, rel=1e-6)
    assert found == pytest.approx(fidelity, rel=1e-6)
    assert found == pytest.approx(from_rows(a, b), rel=DISTANCE64)


def from_rows(a, b):
    """Reference without covariances: the last trace is the nuclear norm of A B^T, with centred rows A and B."""
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    traces = sum(x.square().sum() for x in centred)
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * overlap)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 500), (500, 30), (30, 40), (96, 97)])
@pytest.mark.parametrize("decay", [0, 6])
def test_fewer_images_than_features(n, m, decay):
    """A method that takes square roots of rounding errors, as scipy's does, keeps only 7 digits."""
    spectrum = torch.logspace(0, -decay, 96, dtype=torch.float64)
    a, b = drawn(n, 96, 7, spectrum), drawn(m, 96, 8, spectrum)
    found = frechet_distance(moments_of(a), moments_of(b))
    assert found == pytest.approx(from_rows(a, b), rel=DISTANCE64)
    assert found == frechet_distance(moments_of(b), moments_of(a))


@pytest.mark.parametrize("seed", range(0, 40, 2))
@pytest.mark.parametrize("rows", [96, 97])
def test_a_covariance_that_lacks_one_rank_has_no_direction_too_many(rows, seed):
    """96 rows of 96 features have rank 95; Cholesky's algorithm takes about half of such matrices for regular."""
    a, b = drawn(96, 96, seed), drawn(rows, 96, seed + 1)
    found = frechet_distance(moments_of(a), moments_of(b))
    assert found == pytest.approx(from_rows(a, b), rel=DISTANCE64)


@pytest.mark.parametrize("order", [1, -1], ids=["small variances first", "large ones first"])
def test_variances_over_a_wide_range(order):
    """Variances span 14 decades, more than the root of a product in float64; constant features model dead units."""
    spectrum = torch.logspace(-14, 0, 60, dtype=torch.float64).flip(0 if order < 0 else ())
    a, b = (torch.cat([drawn(400, 60, 9 + i) * spectrum.sqrt(), torch.ones(400, 4)], 1) for i in (0, 1))
    # Variances of 1e-16 of the largest are rounding in the covariances: roots of 1e-16 are lost, beside a sum of 1.
    assert frechet_distance(moments_of(a), moments_of(b)) == pytest.approx(from_rows(a, b), rel=1e-7)


def test_is_invariant_to_rotation_and_translation():
    a, b = drawn(400, 32, 11), drawn(400, 32, 12) * 1.5
    turn = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    moved = [moments_of(x @ turn + 1e4) for x in (a, b)]
    # Moved rows are rounded to 1e-16 of 1e4.
    assert frechet_distance(*moved) == pytest.approx(frechet_distance(moments_of(a), moments_of(b)), rel=1e-9)


def test_non_finite_moments_give_nan():
    rows = drawn(100, 8, 13)
    broken = rows.clone()
    broken[3, 2] = torch.inf
    assert math.isnan(frechet_distance(moments_of(rows), moments_of(broken)))
