"""Interventions in force after rollbacks, and the checks of their settings."""

import pytest
from runs import TINY

from biggan.config.interventions import effective, learning_rate_warnings, warnings
from biggan.config.preset import resolve
from biggan.errors import InputError
from biggan.startup import build, checks


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)

    def resolve_with(*overrides):
        return resolve(tmp_path / "tiny.yaml", ["run.dir=x", "data.path=y", *overrides])

    return resolve_with


def test_without_rollbacks_only_intervention_is_in_force(config):
    c = config("intervention.r1_gamma=1", "rollback.r1_gamma=10", "rollback.g_lr_factor=0.5")
    assert effective(c, 0) == c.intervention


def test_learning_rate_factors_compound_and_other_keys_are_replaced(config):
    c = config(
        "intervention.g_lr_factor=0.8",
        "intervention.r1_gamma=1",
        "intervention.orthogonal=0.1",
        "rollback.g_lr_factor=0.5",
        "rollback.r1_gamma=10",
        "rollback.freeze_d_steps=7",
    )
    third = effective(c, 3)
    assert third.g_lr_factor == pytest.approx(0.8 * 0.5**3)
    assert third.d_lr_factor == 1
    assert (third.r1_gamma, third.orthogonal, third.freeze_d_steps) == (10, 0.1, 7)
    assert build.learning_rates(c, 3) == pytest.approx((2e-4 * 0.8 * 0.5**3, 2e-4))


def test_a_neutral_rollback_section_changes_nothing(config):
    c = config("intervention.d_lr_factor=0.9", "intervention.spectral_clamp=true", "rollback.g_lr_factor=1.0")
    assert effective(c, 5) == c.intervention


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
def test_learning_rate_changes_that_collapsed_in_the_paper_give_warnings(factors, networks):
    found = learning_rate_warnings("intervention.", *factors)
    assert [line.split("_")[0] for line in found] == [f"intervention.{network}" for network in networks]


def test_rollback_warnings_need_on_collapse_rollback(config):
    raised = "rollback.d_lr_factor=2.0"
    assert warnings(config(raised)) == []
    (line,) = warnings(config(raised, "collapse.on_collapse=rollback"))
    assert line.startswith("rollback.d_lr_factor: 2.0 ")


def test_freezing_both_networks_is_refused(config):
    with pytest.raises(InputError, match=r"^rollback\.freeze_g_steps: .*rollback\.freeze_d_steps"):
        config("rollback.freeze_g_steps=3", "rollback.freeze_d_steps=3")


@pytest.mark.parametrize(("pattern", "nearest"), [("G.liner", "G.linear"), ("D.liner", "D.linear"), ("G.bn*", "G.")])
def test_a_pattern_without_a_matching_weight_is_refused_with_the_nearest_name(config, pattern, nearest):
    with pytest.raises(InputError) as refused:
        checks.check_interventions(config(f"rollback.spectral_layers=['G.*','{pattern}']"))
    assert str(refused.value).startswith(f"rollback.spectral_layers: {pattern} ")
    assert nearest in str(refused.value)


def test_weights_of_every_kind_of_layer_can_be_matched(config):
    names = "'G.linear','G.blocks.0.bn1.gain','G.class_embedding','D.blocks.*.conv_shortcut','D.attention.0.theta'"
    checks.check_interventions(config(f"intervention.spectral_layers=[{names}]"))
