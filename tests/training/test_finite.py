"""A non-finite loss or gradient never reaches the weights."""

import pytest
import torch
from torch import nn

from biggan.distributed.engine import AdamSettings, DDPEngine
from biggan.distributed.finite import FiniteGuard, poison_if_non_finite
from biggan.distributed.process import Process

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


def engines(max_grad_norm=0.0):
    guard = FiniteGuard(CPU)
    process = Process(0, 1, CPU, None)
    adam = AdamSettings(lr=0.1, betas=(0.0, 0.9), eps=1e-8, max_grad_norm=max_grad_norm)
    return guard, *(DDPEngine(nn.Linear(2, 1), name=n, adam=adam, process=process, guard=guard) for n in ("G", "D"))


def snapshot(engine):
    moments = [value.clone() for _, value in engine.optimizer_state()]
    return [p.detach().clone() for p in engine.module.parameters()] + moments


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_from_the_first_bad_update_on_nothing_moves(bad):
    guard, G, D = engines()
    x = torch.ones(3, 2)
    for engine in (D, G):
        engine.backward(engine(x).sum())
        engine.step()
    before = snapshot(G), snapshot(D)
    D.backward(D(x).sum() * bad)
    D.step()
    for engine in (D, G):
        engine.backward(engine(x).sum())
        engine.step()
    guard.count_step()
    for engine, old in zip((G, D), before, strict=True):
        for new_value, old_value in zip(snapshot(engine), old, strict=True):
            assert torch.equal(new_value, old_value)
    assert guard.vetoed_steps == 1
    assert set(guard.non_finite_parameters()) == {"D.weight", "D.bias"}


def gradient_seen_by_adam(engine):
    state = dict(engine.optimizer_state())  # beta1 is 0: the mean of gradients is the last one
    return torch.cat([state["weight/exp_avg"].flatten(), state["bias/exp_avg"]])


@pytest.mark.parametrize(("max_grad_norm", "expected"), [(0.0, 13.0), (26.0, 13.0), (2.0, 2.0)])
def test_gradients_are_scaled_down_to_the_norm_asked_for_and_the_true_norm_is_returned(max_grad_norm, expected):
    _, G, _ = engines(max_grad_norm)
    G.module.weight.grad, G.module.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    assert G.step() == 13
    torch.testing.assert_close(gradient_seen_by_adam(G), torch.tensor([3.0, 4.0, 12.0]) * expected / 13)


def test_only_the_layers_that_were_first_are_named():
    guard, G, _ = engines()
    G.module.weight.grad, G.module.bias.grad = torch.ones(1, 2), torch.tensor([torch.nan])
    G.step()
    G.module.weight.grad, G.module.bias.grad = torch.full((1, 2), torch.nan), torch.ones(1)
    G.step()
    assert guard.non_finite_parameters() == ["G.bias"]


def test_an_infinite_loss_with_finite_gradients_is_poisoned():
    w = torch.ones((), requires_grad=True)
    poison_if_non_finite(w + torch.inf).backward()
    assert w.grad.isnan()
    w.grad = None
    poison_if_non_finite(w * 2).backward()
    assert w.grad == 2
