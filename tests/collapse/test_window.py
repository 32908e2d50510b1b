"""The window's means are those of all steps since the last log, but for vetoed ones, also across a checkpoint."""

import torch

from biggan.collapse.signals import Window

CPU = torch.device("cpu")


def add(window, *values, veto=0.0):
    for value in values:
        window.add({"a": torch.tensor(value), "b": torch.tensor(2 * value)}, torch.tensor(veto))


def test_means_then_empty():
    window = Window()
    add(window, 1.0, 2.0, 6.0)
    assert window.close(None) == {"a": 3.0, "b": 6.0}
    add(window, 10.0)
    assert window.close(None) == {"a": 10.0, "b": 20.0}


def test_vetoed_steps_are_no_part_of_it():
    window = Window()
    add(window, 1.0, 3.0)
    add(window, float("nan"), float("inf"), veto=1.0)
    assert window.close(None) == {"a": 2.0, "b": 4.0}


def test_a_window_goes_on_from_its_checkpoint():
    window, again = Window(), Window()
    add(window, 1.0, 2.0)
    again.restore(window.tensors(None), CPU)
    for each in (window, again):
        add(each, 6.0)
    assert window.close(None) == again.close(None) == {"a": 3.0, "b": 6.0}
    again.restore(window.tensors(None), CPU)
    assert again.tensors(None) == {}
