"""Combinations of the objective's keys: refused by name, or in force as the keys say."""

from pathlib import Path

import pytest

from biggan.config.interventions import CHANGEABLE_KEYS, in_force
from biggan.config.preset import keys, resolve
from biggan.config.renamed import RENAMED
from biggan.errors import InputError

DIGITS = Path(__file__).parents[1] / "configs/digits.yaml"
PLAIN_D = "model.d_spectral_norm=false"
PENALTY = "objective.gradient_penalty.weight=10"
BATCH = "model.d_normalization=batch"


def refused(*overrides):
    """Return the one line that refuses these overrides."""
    with pytest.raises(InputError) as error:
        resolve(DIGITS, list(overrides))
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        ([PENALTY], "objective.gradient_penalty.weight", "model.d_spectral_norm=false"),
        ([PENALTY, PLAIN_D, BATCH], "objective.gradient_penalty.weight", "model.d_normalization"),
        (["objective.r1.gamma=1", BATCH], "objective.r1.gamma", "model.d_normalization"),
        (["objective.r2.gamma={linear: {0: 0, 9: 1}}", BATCH], "objective.r2.gamma", "model.d_normalization"),
        (["objective.loss=wasserstein", PLAIN_D], "objective.loss", "objective.gradient_penalty.weight"),
        (["objective.labels.real=0.9"], "objective.labels", "non_saturating"),
        (["objective.labels.flip=0.1", "objective.loss=wasserstein"], "objective.labels", "least_squares"),
        (["objective.augment=[color,color]"], "objective.augment", "remove"),
        (["objective.augment=[colour]"], "objective.augment", "color"),
        (["rollback.objective.gradient_penalty.weight=10"], "rollback.objective.gradient_penalty.weight", "model."),
        (["rollback.objective.r1.gamma=-1"], "rollback.objective.r1.gamma", "-1"),
        (["rollback.model.channels=8"], "rollback.model.channels", "objective."),
        (["rollback.run.seed=3"], "rollback.run.seed", "objective."),
        (["rollback.training.batch_size=64"], "rollback.training.batch_size", "training.d_steps"),
        (["rollback.objective.loss=x0.5"], "rollback.objective.loss", "hinge"),
        (["rollback.objective.spectral.clamp=x2"], "rollback.objective.spectral.clamp", "value"),
        (["rollback.training.d_steps=x1.25"], "rollback.training.d_steps", "integer"),
        (["rollback.optimizer.g_lr=x1e9"], "rollback.optimizer.g_lr", "at most 1"),
        (["intervention.objective.r3.gamma=1"], "intervention.objective.r3.gamma", "objective.r1.gamma"),
        (["training.freeze_g_steps=1", "training.freeze_d_steps=1"], "training.freeze_g_steps", "training.freeze_d"),
    ],
)
def test_combinations_that_cannot_work_are_refused_by_key_with_the_way_on(overrides, key, fix):
    line = refused(*overrides)
    assert line.startswith(key), line
    assert fix in line


@pytest.mark.parametrize("old", RENAMED)
def test_keys_of_version_0_1_are_refused_with_their_new_names(old):
    line = refused(f"{old}=1")
    assert line.startswith(f"{old}:")
    new = RENAMED[old].partition("=")[0].removeprefix("intervention.").removeprefix("rollback.")
    assert new in keys()
    assert new in line


def test_every_key_that_may_change_can_be_changed_by_a_rollback():
    """Each to its own value, which changes nothing but proves that the key is accepted."""
    changeable = [key for key in keys() if key.startswith(CHANGEABLE_KEYS)]
    assert {"optimizer.g_lr", "objective.r1.gamma", "objective.loss", "training.d_steps", "ema.decay"} <= {*changeable}
    config = resolve(DIGITS)
    tree = config.model_dump(mode="json")
    for key in changeable:
        value = tree
        for name in key.split("."):
            value = value[name]
        text = f"rollback.{key}={list(value) if isinstance(value, list | tuple) else str(value).lower()}"
        assert in_force(resolve(DIGITS, [text, "rollback.optimizer.g_lr=x1"]), 2).objective == config.objective


def test_a_freeze_ends_with_the_rollback_that_follows_unless_it_freezes_too():
    config = resolve(DIGITS, ["training.freeze_d_steps=5", "rollback.training.freeze_g_steps=7"])
    assert (in_force(config).training.freeze_d_steps, in_force(config).training.freeze_g_steps) == (5, 0)
    assert (in_force(config, 1).training.freeze_d_steps, in_force(config, 1).training.freeze_g_steps) == (0, 7)


def test_a_preset_may_nest_its_changes(tmp_path):
    nested = "rollback: {optimizer: {g_lr: x0.25}, objective: {r1: {gamma: {linear: {0: 0, 10: 1}}}}}\n"
    (tmp_path / "nested.yaml").write_text(DIGITS.read_text() + nested)
    config = resolve(tmp_path / "nested.yaml")
    assert config.rollback.root.keys() == {"optimizer.g_lr", "objective.r1.gamma"}
    assert in_force(config, 2).optimizer.g_lr == pytest.approx(8e-4 / 16)
    assert in_force(config, 1).objective.r1.gamma.at(5) == 0.5
