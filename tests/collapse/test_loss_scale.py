"""No loss has an absolute threshold: verdicts do not change with the scale of the logits, nor with another level."""

import pytest
import torch
from test_detector import THRESHOLDS, history, verdict
from test_quality import ALONE, CPU, Linear, Threshold, real

from biggan.collapse.detector import Level, judge
from biggan.collapse.quality import QualityProbe
from biggan.collapse.signals import OF_THE_LOSS, History, Series, Window

IN_LOGITS = ("d_loss_real", "d_loss_fake", "g_loss", "d_logit_real_spread")


def scaled(series, factor, offset=0.0):
    """Return the history of a run whose logits, and losses linear in them, are `factor` times as large."""
    moved = {"g_loss": offset, "d_loss_fake": -offset}
    return {
        name: Series(s.steps, [v * factor + moved.get(name, 0.0) for v in s.values]) if name in IN_LOGITS else s
        for name, s in series.items()
    }


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (1e-3, 0.0), (1e3, 0.0), (50.0, -4e4)])
def test_a_run_has_the_same_verdict_at_any_scale_and_offset_of_its_logits(factor, offset):
    healthy, jump = history(until=1000), {"g_loss": lambda t: 3.0, "diversity__ema": lambda t: 0.1}
    assert verdict(scaled(healthy, factor, offset)).level is Level.HEALTHY
    collapsing = verdict(history(onset=900, **jump))
    found = verdict(scaled(history(onset=900, **jump), factor, offset))
    assert collapsing.level.is_alarm
    assert (found.level, found.families, found.onset_step) == (
        collapsing.level,
        collapsing.families,
        collapsing.onset_step,
    )


def test_a_change_far_below_the_spread_of_the_logits_is_no_departure():
    """A loss that is nearly constant has a tiny deviation: the spread alone keeps a small change from counting."""
    flat = {name: Series(s.steps, [0.3 if name == "g_loss" else v for v in s.values]) for name, s in history().items()}
    step = flat["g_loss"].steps
    flat["g_loss"] = Series(step, [0.3 if s <= 900 else 0.5 for s in step])
    assert judge(flat, 1000, THRESHOLDS).level is Level.HEALTHY
    flat["g_loss"] = Series(step, [0.3 if s <= 900 else 1.5 for s in step])
    assert judge(flat, 1000, THRESHOLDS).families == ["generator loss"]


@pytest.mark.parametrize(("level", "expected"), [(0.0, 0.75), (0.9, 0.75), (1.5, 0.0)])
def test_accuracy_on_real_images_is_measured_at_the_losss_level(level, expected):
    probe = QualityProbe(classes=3, z_dim=5, seed=0, process=ALONE, train=real(6, 2), held_out=real(1, 1))
    assert probe.measure(Linear(), Linear(), Threshold(), level)["d_accuracy_train"] == pytest.approx(expected)


def test_without_a_level_it_is_the_share_of_pairs_with_a_higher_logit_than_the_generators_images():
    probe = QualityProbe(classes=3, z_dim=5, seed=0, process=ALONE, train=real(6, 2), held_out=real(1, 1))

    class Between(Linear):
        """Images of one brightness per class: 0 for class 0, and brighter than all real images for the others."""

        def forward(self, z, y):
            return super().forward(z, y) * 0 + 5.0 * y[:, None, None, None]

    row = probe.measure(Between(), Linear(), Threshold(), None)
    assert row["d_accuracy_train"] == pytest.approx(6 / 8 / 3)
    assert row["d_accuracy_held_out"] == pytest.approx(1 / 2 / 3)


def test_signals_of_another_loss_are_forgotten_and_others_are_kept():
    recorded = History()
    recorded.add(1, {"g_loss": 1.0, "d_grad_norm": 1.0, "d_logit_real": 1.0, "diversity/ema": 1.0, "sigma/G/0": 1.0})
    recorded.forget_losses()
    assert recorded.series.keys() == {"diversity/ema", "sigma/G/0"}
    assert "d_loss*" in OF_THE_LOSS


def test_a_statistic_that_is_not_in_every_step_is_averaged_over_the_steps_that_have_it():
    rows = [{"a": 1.0}, {"a": 2.0, "b": 10.0}, {"a": 6.0}, {"a": 3.0, "b": 30.0}]
    veto, whole = torch.zeros((), device=CPU), Window()
    for row in rows:
        whole.add({name: torch.tensor(value) for name, value in row.items()}, veto)
    resumed = Window()
    for row in rows[:2]:
        resumed.add({name: torch.tensor(value) for name, value in row.items()}, veto)
    saved, resumed = resumed.tensors(None), Window()
    resumed.restore(saved, CPU)
    for row in rows[2:]:
        resumed.add({name: torch.tensor(value) for name, value in row.items()}, veto)
    expected = whole.close(None)
    assert expected == {"a": 3.0, "b": 20.0}
    assert resumed.close(None) == expected
