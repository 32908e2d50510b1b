"""A non-finite loss or gradient never reaches the weights."""

import pytest
import torch
from torch import nn

from biggan.distributed.engine import DDPEngine
from biggan.distributed.finite import FiniteGuard, poison_if_non_finite
from biggan.distributed.process import Process

CPU = torch.device("cpu")


def engines():
    guard = FiniteGuard(CPU)
    process = Process(0, 1, CPU, None)
    settings = {"lr": 0.1, "betas": (0.0, 0.9), "eps": 1e-8, "process": process, "guard": guard}
    return guard, *(DDPEngine(nn.Linear(2, 1), name=name, **settings) for name in ("G", "D"))


def snapshot(engine):
    moments = [v.clone() for s in engine.optimizer.state.values() for v in s.values()]
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
    assert set(guard.culprits()) == {"D.weight", "D.bias"}


def test_only_the_layers_that_were_first_are_named():
    guard, G, _ = engines()
    G.module.weight.grad, G.module.bias.grad = torch.ones(1, 2), torch.tensor([torch.nan])
    G.step()
    G.module.weight.grad, G.module.bias.grad = torch.full((1, 2), torch.nan), torch.ones(1)
    G.step()
    assert guard.culprits() == ["G.bias"]


def test_an_infinite_loss_with_finite_gradients_is_poisoned():
    w = torch.ones((), requires_grad=True)
    poison_if_non_finite(w + torch.inf).backward()
    assert w.grad.isnan()
    w.grad = None
    poison_if_non_finite(w * 2).backward()
    assert w.grad == 2
