from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from biggan.generation.truncation import draw_latents, truncated_normal

pytestmark = pytest.mark.numeric

OF_16 = SimpleNamespace(z_dim=16, scaled_latents=False)
SCALED = SimpleNamespace(z_dim=2000, scaled_latents=True)


def drawn(truncation, seed=0, count=20_000):
    return truncated_normal((count,), truncation, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("truncation", [None, 2.0, 0.5, 1e-6])
def test_values_follow_the_truncated_normal_distribution(truncation):
    bound = float("inf") if truncation is None else truncation
    z = drawn(truncation)
    assert z.isfinite().all()
    assert z.abs().max() <= bound * (1 + 1e-6)  # float32
    assert stats.kstest(z.double().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 0.01


def test_values_of_one_seed_move_continuously_with_the_truncation():
    values = torch.stack([drawn(truncation, count=500).abs() for truncation in (0.2, 0.5, 0.51, 2.0, None)])
    assert (values.diff(dim=0) >= 0).all()
    assert (values[2] - values[1]).max() <= 0.0101  # a step of 0.01 in the threshold moves no value further
    assert torch.equal(drawn(0.2, count=500).sign(), drawn(None, count=500).sign())


def test_latents_of_an_index_do_not_depend_on_the_others():
    many = draw_latents(range(50), OF_16, 0.7, seed=3)
    assert torch.equal(draw_latents(range(17, 20), OF_16, 0.7, seed=3), many[17:20])
    assert len({tuple(row.tolist()) for row in many}) == 50
    assert not torch.equal(draw_latents(range(50), OF_16, 0.7, seed=4), many)


def test_scaled_latents_lie_within_2_and_are_multiplied_by_the_truncation():
    z = draw_latents(range(10), SCALED, 1.0, seed=3)
    assert stats.kstest(z.flatten().double().numpy(), stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    assert torch.equal(draw_latents(range(10), SCALED, None, seed=3), z)
    assert torch.equal(draw_latents(range(10), SCALED, 0.3, seed=3), 0.3 * z)
