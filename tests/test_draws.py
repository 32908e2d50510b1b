import itertools

import pytest
import torch

from biggan.draws import Draws


def make(rank, world_size, seed=0):
    return Draws(seed, 5, 10, 12, 2, rank, world_size, torch.device("cpu"))


def parts(draw):
    return draw.z, draw.y, draw.uniform("t", 1, 1, 1), draw.normal("noise", 3)


def test_ranks_together_draw_what_one_process_draws():
    whole = list(make(0, 1)(7, 1))
    assert [draw.last for draw in whole] == [False, True]
    for size in (2, 3, 4):
        ranks = [list(make(rank, size)(7, 1)) for rank in range(size)]
        for micro, draw in enumerate(whole):
            for local, x in zip(zip(*(parts(r[micro]) for r in ranks), strict=True), parts(draw), strict=True):
                assert torch.equal(torch.cat(local), x)


def test_every_part_of_the_key_matters():
    base = next(make(0, 1)(7, 1))
    others = [next(make(0, 1)(8, 1)), next(make(0, 1)(7, 2)), next(make(0, 1, seed=1)(7, 1))]
    others.append(list(make(0, 1)(7, 1))[1])
    for other in others:
        assert not any(torch.equal(*pair) for pair in zip(parts(base), parts(other), strict=True))


def test_numbers_of_a_name_depend_on_no_other_draw():
    draw, again = next(make(0, 1)(7, 1)), next(make(0, 1)(7, 1))
    first = [draw.uniform(name, 4) for name in ("a", "b")]
    for of_first, of_last in itertools.combinations([*first, draw.uniform("latents", 4)], 2):
        assert not torch.equal(of_first, of_last)
    assert torch.equal(again.uniform("b", 4), first[1])
    assert torch.equal(again.z, draw.z)


@pytest.mark.numeric
def test_distributions():
    draw = next(Draws(0, 100, 4, 1000, 1, 0, 1, torch.device("cpu"))(1, 0))
    # 100,000 draws: 6 standard errors, and the key is fixed.
    for x in (draw.z, draw.normal("noise", 100)):
        assert abs(x.mean()) < 0.02
        assert abs(x.std() - 1) < 0.02
    u = draw.uniform("t", 100)
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.006
    assert torch.bincount(draw.y, minlength=4).min() > 200
