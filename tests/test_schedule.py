"""Schedules: values by step, bounds, text, and factors."""

import math
from pathlib import Path

import pytest

from biggan.config.interventions import in_force
from biggan.config.preset import resolve
from biggan.config.schedule import Schedule, value_at
from biggan.errors import InputError

DIGITS = Path(__file__).parents[1] / "configs/digits.yaml"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", {0: 1.0, 5: 1.0, 10: 1.0, 15: 2.0, 20: 3.0, 30: 1.0, 99: 1.0}),
        ("step", {0: 1.0, 10: 1.0, 19: 1.0, 20: 3.0, 29: 3.0, 30: 1.0, 99: 1.0}),
        ("cosine", {10: 1.0, 15: 2.0, 12: 1 + (1 - math.cos(0.2 * math.pi)), 20: 3.0, 25: 2.0, 30: 1.0}),
    ],
)
def test_values_at_and_between_the_points(shape, expected):
    schedule = Schedule({shape: {30: 1.0, 10: 1.0, 20: 3.0}})
    assert {step: schedule.at(step) for step in expected} == pytest.approx(expected)


def test_a_number_is_the_same_in_every_step():
    assert value_at(0.25, 7) == 0.25


def test_an_override_becomes_yaml_and_the_same_schedule_again(tmp_path):
    config = resolve(DIGITS, ["optimizer.g_lr={linear: {0: 0, 100: 2e-4}}", "objective.r1.gamma={step: {0: 1, 5: 0}}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = resolve(tmp_path / "config.yaml")
    assert again == config
    assert value_at(again.optimizer.g_lr, 50) == pytest.approx(1e-4)
    assert value_at(again.objective.r1.gamma, 5) == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.g_lr={linear: {0: 1e-4}}", ()),
        ("optimizer.g_lr={linear: {0: 0, 9: 2}}", ("2",)),
        ("optimizer.g_lr={line: {0: 0, 9: 1}}", ("line",)),
        ("optimizer.g_lr={linear: {-1: 1e-4, 9: 1e-4}}", ()),
        ("optimizer.g_lr={linear: {a: 1e-4, 9: 1e-4}}", ("'a'",)),
        ("optimizer.g_lr={linear: {0: 0, 9: 1}, step: {0: 0, 9: 1}}", ()),
        ("optimizer.g_lr={linear: 3}", ()),
        ("optimizer.g_lr=0", ()),
        ("optimizer.beta1={linear: {0: 0, 9: 1}}", ()),
        ("objective.r1.gamma={cosine: {0: 1, 9: -1}}", ("-1",)),
    ],
)
def test_bad_schedules_are_refused_by_key(override, words):
    with pytest.raises(InputError) as error:
        resolve(DIGITS, [override])
    line = str(error.value)
    assert line.startswith(override.partition("=")[0])
    assert "\n" not in line
    assert all(word in line for word in words)


def test_a_factor_multiplies_numbers_and_schedules_once_more_at_each_rollback():
    changes = ["rollback.optimizer.g_lr=x0.5", "rollback.optimizer.d_lr=x2", "intervention.optimizer.d_lr=x0.1"]
    config = resolve(DIGITS, ["optimizer.g_lr={linear: {0: 8e-4, 10: 4e-4}}", "optimizer.d_lr=1e-3", *changes])
    for rollbacks in range(4):
        values = in_force(config, rollbacks).optimizer
        assert value_at(values.g_lr, 0) == pytest.approx(8e-4 * 0.5**rollbacks)
        assert value_at(values.g_lr, 10) == pytest.approx(4e-4 * 0.5**rollbacks)
        assert values.d_lr == pytest.approx(1e-4 * 2**rollbacks)
