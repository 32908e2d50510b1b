import pytest
import torch

from biggan.training.latents import Latents


def make(rank, world_size, seed=0):
    return Latents(seed, 5, 10, 12, 2, rank, world_size, torch.device("cpu"))


def test_ranks_together_draw_what_one_process_draws():
    whole = list(make(0, 1)(7, 1))
    for size in (2, 3, 4):
        ranks = [list(make(rank, size)(7, 1)) for rank in range(size)]
        for micro, (z, y) in enumerate(whole):
            assert torch.equal(torch.cat([r[micro][0] for r in ranks]), z)
            assert torch.equal(torch.cat([r[micro][1] for r in ranks]), y)


def test_every_part_of_the_key_matters():
    base = next(make(0, 1)(7, 1))[0]
    others = [next(make(0, 1)(8, 1))[0], next(make(0, 1)(7, 2))[0], next(make(0, 1, seed=1)(7, 1))[0]]
    others.append(list(make(0, 1)(7, 1))[1][0])
    assert all(not torch.equal(base, other) for other in others)


@pytest.mark.numeric
def test_z_is_standard_normal_and_y_uniform():
    latents = Latents(0, 100, 4, 1000, 1, 0, 1, torch.device("cpu"))
    z, y = next(latents(1, 0))
    # 100,000 draws: 6 standard errors, and the key is fixed.
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert torch.bincount(y, minlength=4).min() > 200
