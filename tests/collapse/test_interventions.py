"""Values in force after rollbacks, and the checks of the changes."""

import json

import pytest
import yaml
from runs import TINY

from biggan.config.interventions import CHANGEABLE_KEYS, in_force, is_factor, learning_rate_warnings, warnings
from biggan.config.preset import fields, flat, resolve
from biggan.config.renamed import RENAMED
from biggan.errors import InputError
from biggan.startup import checks


@pytest.fixture
def config(tmp_path):
    """A function from overrides, and sections of the preset, to the config."""

    def resolve_with(*overrides, **sections):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY) | sections))
        return resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", *overrides])

    return resolve_with


def differing(a, b):
    """Return the values of `b` that differ from those of `a`, by key, but for the changes themselves."""
    before, after = flat(a), flat(b)
    return {key: after[key] for key in after if after[key] != before[key] and key not in ("intervention", "rollback")}


def test_without_rollbacks_only_intervention_is_in_force(config):
    c = config("intervention.objective.r1.gamma=1", "rollback.objective.r1.gamma=10")
    assert differing(c, in_force(c)) == {"objective.r1.gamma": 1.0}


def test_factors_compound_and_other_values_are_replaced(config):
    c = config(
        "intervention.optimizer.g_lr=x0.8",
        "intervention.objective.r1.gamma=1",
        "intervention.objective.orthogonal=0.1",
        "rollback.objective.r1.gamma=10",
        "rollback.objective.orthogonal=x2",
        "rollback.training.d_steps=x2",
        "rollback.training.freeze_d_steps=7",
    )
    assert differing(c, in_force(c, 3)) == {
        "optimizer.g_lr": pytest.approx(2e-4 * 0.8 * 0.5**3),
        "objective.r1.gamma": 10.0,
        "objective.orthogonal": pytest.approx(0.8),
        "training.d_steps": 16,
        "training.freeze_d_steps": 7,
    }


def test_a_rollback_that_changes_nothing_keeps_the_interventions(config):
    c = config(
        "intervention.optimizer.d_lr=x0.9", "intervention.objective.spectral.clamp=true", "rollback.optimizer.g_lr=x1"
    )
    assert differing(in_force(c), in_force(c, 5)) == {}


def test_a_freeze_ends_with_the_rollback_that_follows_it(config):
    c = config("intervention.training.freeze_g_steps=5", "rollback.training.freeze_d_steps=3")
    frozen = [(t.freeze_g_steps, t.freeze_d_steps) for t in (in_force(c, n).training for n in (0, 1, 2))]
    assert frozen == [(5, 0), (0, 3), (0, 3)]


def test_a_factor_multiplies_a_schedule(config):
    c = config("optimizer.g_lr={linear: {0: 0, 100: 2e-4}}", "intervention.optimizer.g_lr=x3")
    rates = [in_force(c, rollbacks).optimizer.g_lr.at(50) for rollbacks in (0, 1, 2)]
    assert rates == pytest.approx([3e-4, 1.5e-4, 0.75e-4])


def test_changes_may_be_nested_and_are_saved_by_dotted_key(config, tmp_path):
    nested = {"objective": {"r1": {"gamma": 3}, "loss": "least_squares"}, "optimizer.g_lr": "x0.25"}
    c = config("rollback.objective.r1.every_d_steps=4", rollback=nested)
    (tmp_path / "saved.yaml").write_text(c.to_yaml())
    saved = yaml.safe_load(c.to_yaml())
    assert saved["rollback"] == {
        "optimizer.g_lr": "x0.25",
        "objective.r1.gamma": 3,
        "objective.r1.every_d_steps": 4,
        "objective.loss": "least_squares",
    }
    assert resolve(tmp_path / "saved.yaml") == c
    assert config("rollback.objective.r1.gamma=5", rollback=nested).rollback.root["objective.r1.gamma"] == 5


@pytest.mark.parametrize(
    ("factors", "networks"),
    [
        ((1, 1), []),
        ((0.5, 1), []),
        ((0.5, 0.5), []),
        ((2, 1), ["g"]),
        ((1, 1.1), ["d"]),
        ((1, 0.5), ["d"]),
        ((2, 2), ["g", "d"]),
        ((2, 0.5), ["g", "d"]),
    ],
)
@pytest.mark.parametrize("rate", ["2e-4", "{cosine: {0: 2e-4, 6: 0}}"])
def test_learning_rate_changes_that_collapsed_in_the_paper_give_warnings(config, factors, networks, rate):
    changes = [f"intervention.optimizer.{n}_lr=x{factor}" for n, factor in zip("gd", factors, strict=True)]
    c = config(f"optimizer.g_lr={rate}", f"optimizer.d_lr={rate}", *changes)
    found = learning_rate_warnings("intervention", c, in_force(c))
    assert [line.split("_")[0] for line in found] == [f"intervention.optimizer.{network}" for network in networks]


def test_rollback_warnings_need_on_collapse_rollback(config):
    raised = "rollback.optimizer.d_lr=x2"
    assert warnings(config(raised)) == []
    (line,) = warnings(config(raised, "collapse.on_collapse=rollback"))
    assert line.startswith("rollback.optimizer.d_lr: 2 ")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rollback.training.freeze_g_steps=3", ["rollback.training.freeze_g_steps: ", "training.freeze_d_steps"]),
        ("intervention.optimizer.g_lr=-1", ["intervention.optimizer.g_lr: ", "not -1"]),
        ("rollback.optimizer.g_lr=fast", ["rollback.optimizer.g_lr: ", "not 'fast'"]),
        ("rollback.optimizer.g_lr=x60", ["rollback.optimizer.g_lr: ", "not 43.2", "after 3 rollbacks"]),
        ("rollback.training.d_steps=x0.25", ["rollback.training.d_steps: ", "integer", "not 0.5"]),
        ("rollback.objective.r1.gama=1", ["rollback.objective.r1.gama: ", "nearest: rollback.objective.r1.gamma"]),
        ("rollback.objective.labels.real=0.9", ["rollback.objective.labels: hinge", "non_saturating"]),
        ("intervention.run.seed=3", ["intervention.run.seed: ", *CHANGEABLE_KEYS]),
        ("intervention.model.channels=3", ["intervention.model.channels: ", *CHANGEABLE_KEYS]),
        ("intervention.training.batch_size=6", ["intervention.training.batch_size: ", "training.d_steps"]),
        ("intervention.objective.loss=x2", ["intervention.objective.loss: ", "x2", "'hinge'"]),
        ("intervention.objective.spectral.clamp=x2", ["intervention.objective.spectral.clamp: ", "x2", "False"]),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(config, override, parts):
    both_frozen = ["rollback.training.freeze_d_steps=3"] if "freeze" in override else []
    with pytest.raises(InputError) as refused:
        config(override, *both_frozen)
    assert str(refused.value).startswith(parts[0])
    assert all(part in str(refused.value) for part in parts)


def test_every_key_that_may_change_is_a_key_and_a_factor_of_it_is_recognised():
    for start in CHANGEABLE_KEYS:
        (key, *_) = [key for key in fields() if key.startswith(start)]
        assert is_factor(f"{key}=x0.5")
        assert not is_factor(f"{key}=0.5")
    assert not is_factor("run.seed=x2")


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_of_version_0_1_is_refused_with_its_new_name(config, old):
    section, _, key = old.partition(".")
    new = RENAMED[old].partition("=")[0]
    changed = new.partition(".")[2] if section in ("intervention", "rollback") else new
    assert changed in fields()
    in_a_preset = yaml.safe_load(TINY).get(section, {}) | {key: 1}
    for refused in (lambda: config(f"{old}=1"), lambda: config(**{section: in_a_preset})):
        with pytest.raises(InputError) as error:
            refused()
        assert str(error.value).startswith(old if section != "regularization" else section)
        assert RENAMED[old] in str(error.value)


NEUTRAL_0_1 = {
    **{"g_lr_factor": 1.0, "d_lr_factor": 1.0, "d_steps": 0, "r1_gamma": 0.0, "r1_every_d_steps": 1, "orthogonal": 0.0},
    **{"spectral_penalty": 0.0, "spectral_clamp": False, "spectral_target": 0.0, "spectral_ratio": 2.0},
    **{"spectral_layers": ["G.linear"], "freeze_g_steps": 0, "freeze_d_steps": 0},
}
"""A section of changes that changed nothing, as version 0.1 saved it."""


@pytest.mark.parametrize(
    ("intervention", "rollback", "now"),
    [
        ({}, {"g_lr_factor": 0.5}, []),
        ({"g_lr_factor": 0.8}, {}, ["intervention.optimizer.g_lr=x0.8", "rollback.optimizer.g_lr=x1.0"]),
        (
            {"r1_gamma": 2.0, "orthogonal": 0.1},  # it was added to the run's own
            {"g_lr_factor": 0.5, "d_steps": 3, "spectral_layers": ["D.*"]},
            [
                *("intervention.objective.r1.gamma=2.0", f"intervention.objective.orthogonal={0.1 + 1e-4!r}"),
                *("rollback.training.d_steps=3", "rollback.objective.spectral.layers=['D.*']"),
            ],
        ),
    ],
)
def test_a_config_that_version_0_1_saved_is_read_by_todays_keys(config, tmp_path, intervention, rollback, now):
    tree = yaml.safe_load(TINY) | {"run": {"dir": "x"}, "regularization": {"orthogonal": 1e-4}}
    tree["data"]["path"], tree["training"]["loss"] = "y", "non_saturating"
    tree["intervention"], tree["rollback"] = NEUTRAL_0_1 | intervention, NEUTRAL_0_1 | rollback
    del tree["objective"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert resolve(tmp_path / "config.yaml") == config("objective.loss=non_saturating", *now)


@pytest.mark.parametrize(("pattern", "nearest"), [("G.liner", "G.linear"), ("D.liner", "D.linear"), ("G.bn*", "G.")])
def test_a_pattern_without_a_matching_weight_is_refused_with_the_nearest_name(config, pattern, nearest):
    with pytest.raises(InputError) as refused:
        checks.check_interventions(config(f"rollback.objective.spectral.layers=['G.*','{pattern}']"))
    assert str(refused.value).startswith(f"rollback.objective.spectral.layers: {pattern} ")
    assert nearest in str(refused.value)


def test_weights_of_every_kind_of_layer_can_be_matched(config):
    names = "'G.linear','G.blocks.0.bn1.gain','G.class_embedding','D.blocks.*.conv_shortcut','D.attention.0.theta'"
    checks.check_interventions(config(f"intervention.objective.spectral.layers=[{names}]"))


def test_values_in_force_are_those_of_a_config_that_gives_them(config):
    changed = config("intervention.optimizer.g_lr=x0.5", "intervention.objective.r1.gamma=1")
    given = config("optimizer.g_lr=1e-4", "objective.r1.gamma=1")
    assert json.loads(in_force(changed).model_dump_json()) == json.loads(in_force(given).model_dump_json())
