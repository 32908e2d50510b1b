"""A window's means are over all steps since the last logged step except vetoed ones, also across a checkpoint."""

import torch

from biggan.collapse.signals import Window

CPU = torch.device("cpu")


def add(window, *values, veto=0.0):
    for value in values:
        window.add({"a": torch.tensor(value), "b": torch.tensor(2 * value)}, torch.tensor(veto))


def test_close_returns_means_and_resets_the_window():
    window = Window()
    add(window, 1.0, 2.0, 6.0)
    assert window.close(None) == {"a": 3.0, "b": 6.0}
    add(window, 10.0)
    assert window.close(None) == {"a": 10.0, "b": 20.0}


def test_vetoed_steps_are_ignored():
    window = Window()
    add(window, 1.0, 3.0)
    add(window, float("nan"), float("inf"), veto=1.0)
    assert window.close(None) == {"a": 2.0, "b": 4.0}


def test_a_window_resumes_from_its_checkpoint():
    window, restored = Window(), Window()
    add(window, 1.0, 2.0)
    saved = window.tensors(None)
    restored.restore({name: saved[name] for name in reversed(saved)}, CPU)  # a file has an order of its own
    for each in (window, restored):
        add(each, 6.0)
    assert window.close(None) == restored.close(None) == {"a": 3.0, "b": 6.0}
    restored.restore(window.tensors(None), CPU)
    assert restored.tensors(None) == {}
