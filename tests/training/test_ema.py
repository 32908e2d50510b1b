import pytest
import torch
from bounds import FEW_OPERATIONS32
from torch import nn

from biggan.gan import Ema
from biggan.models.biggan import BigGANGenerator

pytestmark = pytest.mark.numeric

NO_VETO = torch.zeros(())


def moved(generator):
    with torch.no_grad():
        for p in generator.parameters():
            p += 1
    return generator


def test_parameters_follow_the_closed_form():
    generator = nn.Linear(2, 2)
    start = generator.weight.detach().clone()
    ema = Ema(generator, 0.9, 0)
    for step in range(1, 6):
        ema.update(moved(generator), step, NO_VETO)
    # w_k = w_0 + k, so the average is w_0 + sum over k of 0.1 * 0.9^(5 - k) * k.
    expected = sum(0.1 * 0.9 ** (5 - k) * k for k in range(1, 6))
    torch.testing.assert_close(ema.module.weight, start + expected)


def test_before_the_start_step_it_is_the_generator():
    generator = nn.Linear(2, 2)
    ema = Ema(generator, 0.9, start_step=3)
    for step in (1, 2):
        ema.update(moved(generator), step, NO_VETO)
        torch.testing.assert_close(ema.module.weight, generator.weight)
    ema.update(moved(generator), 3, NO_VETO)
    torch.testing.assert_close(ema.module.weight, generator.weight - 0.9)


def test_a_veto_leaves_the_average_alone():
    generator = nn.Linear(2, 2)
    ema = Ema(generator, 0.9, 0)
    before = ema.module.weight.clone()
    ema.update(moved(generator), 1, torch.ones(()))
    assert torch.equal(ema.module.weight, before)


def test_buffers_are_copied_never_averaged():
    generator = BigGANGenerator(32, 2, 3, 8, 4, True)
    generator.register_buffer("count", torch.tensor(3))
    ema = Ema(generator, 0.9, 0)
    generator(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
    generator.count += 4
    ema.update(generator, 1, NO_VETO)
    for name, buffer in generator.named_buffers():
        assert torch.equal(ema.module.get_buffer(name), buffer), name
    assert ema.module.linear.u.norm().item() == pytest.approx(1, abs=FEW_OPERATIONS32)
    assert ema.module.count.dtype == torch.int64


def test_it_is_in_evaluation_mode_and_needs_no_gradient():
    ema = Ema(BigGANGenerator(32, 2, 3, 8, 4, True), 0.9, 0)
    assert not any(m.training for m in ema.module.modules())
    assert not any(p.requires_grad for p in ema.module.parameters())
