import pytest
import torch
from bounds import SUMS64
from torch_fidelity.metric_kid import kid_features_to_metric

from biggan.evaluation.distances import kernel_distance

pytestmark = pytest.mark.numeric


KERNELS_CANCEL = 1e-9
"""Relative: the distance is what sums of kernels of size 1 to 10 differ by, at least 1e-3; rounding there is 1e-14."""


def drawn(rows, seed, shift=0.0):
    return torch.randn(rows, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).relu() + shift


def torch_fidelity(real, fake, subsets, size):
    found = kid_features_to_metric(real, fake, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def test_equals_torch_fidelity_when_a_subset_is_the_whole_set():
    real, fake = drawn(150, 0), drawn(150, 1, shift=0.2)
    mean, deviation = kernel_distance(real, fake, subsets=3, subset_size=150)
    assert mean == pytest.approx(torch_fidelity(real, fake, 3, 150)[0], rel=KERNELS_CANCEL)
    assert deviation is None
    assert kernel_distance(real, drawn(400, 1), subsets=3, subset_size=150)[1] is None
    assert kernel_distance(real, fake, subsets=3, subset_size=149)[1] > 0


def test_agrees_with_torch_fidelity_within_the_spread_of_subsets():
    real, fake = drawn(600, 2), drawn(400, 3, shift=0.1)
    mean, deviation = kernel_distance(real, fake, subsets=200, subset_size=60)
    expected_mean, expected_deviation = torch_fidelity(real, fake, 200, 60)
    assert abs(mean - expected_mean) < 5 * expected_deviation / 200**0.5  # 5 standard errors
    assert deviation == pytest.approx(expected_deviation, rel=0.3)  # 6 standard errors: 1 / (2 * 200)^(1/2) each


def test_equals_the_definition_summed_over_pairs():
    x, y = drawn(6, 4), drawn(6, 5)

    def k(a, b):
        return (float(a @ b) / 24 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / 30
    between = sum(k(a, b) for a in x for b in y) / 36
    assert kernel_distance(x, y, subsets=1, subset_size=6)[0] == pytest.approx(within - 2 * between, rel=KERNELS_CANCEL)


def test_is_unbiased():
    """Over many small subsets of one distribution the mean is 0 within its standard error. A biased one is not."""
    mean, deviation = kernel_distance(drawn(4000, 6), drawn(4000, 7), subsets=400, subset_size=10)
    assert abs(mean) < 5 * deviation / 400**0.5


def test_subsets_are_limited_by_the_smaller_set_and_keyed_by_the_seed():
    real, fake = drawn(300, 8), drawn(40, 9)
    assert kernel_distance(real, fake) == kernel_distance(real, fake, subset_size=40)
    assert kernel_distance(real, fake, seed=1) == kernel_distance(real, fake, seed=1) != kernel_distance(real, fake)


def test_float32_features_are_summed_in_float64():
    """The distance is a millionth of the kernel values."""
    real, fake = (20 + 1e-2 * drawn(200, seed).float() for seed in (10, 11))
    wide = kernel_distance(real.double(), fake.double(), subset_size=100)
    assert kernel_distance(real, fake, subset_size=100) == pytest.approx(wide, rel=SUMS64)  # the same operations
