"""The dry run takes the training step itself: whatever is switched on is counted, as often as it is due."""

import pytest
import torch
from runs import TINY

from biggan.config.preset import resolve
from biggan.cost.trace import kinds_of_steps, record
from biggan.objectives.penalties import R1, R2
from biggan.training.turn import NetworkRecipe, Recipe, Scheduled


@pytest.fixture
def traced(tmp_path):
    """A function from overrides to the trace of one process with 6 images of each micro-batch."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return lambda *overrides: record(resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", *overrides]), 6)


def test_a_gradient_penalty_costs_its_backward_passes_in_the_steps_that_have_it(traced):
    plain, every = traced(), traced("objective.r1.gamma=1.0")
    lazy = traced("objective.r1.gamma=1.0", "objective.r1.every_d_steps=16")
    r1 = every.flop - plain.flop
    assert r1 > 0.3 * plain.flop
    assert lazy.flop - plain.flop == pytest.approx(r1 / 16)
    # The dry run's memory is that of the largest pass.
    assert lazy.activation_bytes == every.activation_bytes > plain.activation_bytes


def test_lazy_terms_of_two_periods_are_counted_over_one_period_of_both():
    terms = Scheduled(R1, 1.0, 2), Scheduled(R2, 1.0, 3)
    recipe = Recipe(1, 1, torch.autocast("cpu", enabled=False), discriminator=NetworkRecipe(terms=terms))
    kinds = {}
    for step, share in kinds_of_steps(recipe, middle=5000):
        kinds[tuple(term.name for term, _ in recipe.d_turn(step, 0).terms)] = share
    assert kinds == pytest.approx({("r1", "r2"): 1 / 6, ("r1",): 2 / 6, ("r2",): 1 / 6, (): 2 / 6})


def test_extra_rows_real_rows_of_g_and_intervention_are_counted(traced):
    plain = traced("model.d_spectral_norm=false")
    penalty = traced("model.d_spectral_norm=false", "objective.gradient_penalty.weight=10")
    assert penalty.flop > 1.5 * plain.flop
    relativistic = traced("objective.loss=relativistic_paired")
    assert (plain.real_micro_batches, relativistic.real_micro_batches) == (2, 3)
    assert relativistic.flop > plain.flop * 1.05
    more = traced("intervention.training.d_steps=4")
    assert more.real_micro_batches == 4
    assert more.flop > 1.5 * plain.flop


def test_accumulated_micro_steps_are_repeated(traced):
    one, four = traced("training.batch_size=6"), traced("training.batch_size=24", "training.accumulation=4")
    assert sum(step.repeats for step in four.steps) == 4 * sum(step.repeats for step in one.steps) == 12
    assert four.flop == pytest.approx(4 * one.flop, rel=0.01)
