"""The policy after a verdict, case by case."""

import pytest

from biggan.collapse.detector import Level, Verdict
from biggan.collapse.response import Action, ResponsePolicy

HALT, ROLLBACK, CONTINUE = (ResponsePolicy(answer, max_rollbacks=2) for answer in ("halt", "rollback", "continue"))


def verdict(level: Level) -> Verdict:
    return Verdict(100, level, ())


@pytest.mark.parametrize(
    ("previous", "observed", "level"),
    [
        (Level.HEALTHY, Level.WARNING, Level.WARNING),
        (Level.COLLAPSING, Level.WARNING, Level.COLLAPSING),  # some signals fell back, the alarm stays
        (Level.COLLAPSED, Level.COLLAPSING, Level.COLLAPSING),
        (Level.COLLAPSING, Level.HEALTHY, Level.HEALTHY),
    ],
)
def test_an_alarm_lasts_until_the_run_is_healthy(previous, observed, level):
    assert HALT.level_after(previous, verdict(observed)) is level


@pytest.mark.parametrize("policy", [HALT, ROLLBACK, CONTINUE])
def test_only_an_alarm_calls_for_an_action(policy):
    for previous in Level:
        assert not policy.must_act(previous, verdict(Level.HEALTHY), non_finite=False)
        assert not policy.must_act(previous, verdict(Level.WARNING), non_finite=False)
    assert policy.must_act(Level.WARNING, verdict(Level.COLLAPSING), non_finite=False)


def test_a_run_that_continues_answers_an_alarm_once_unless_it_is_not_finite():
    assert not CONTINUE.must_act(Level.COLLAPSING, verdict(Level.COLLAPSED), non_finite=False)
    assert CONTINUE.must_act(Level.COLLAPSING, verdict(Level.COLLAPSED), non_finite=True)
    assert HALT.must_act(Level.COLLAPSING, verdict(Level.COLLAPSED), non_finite=False)


@pytest.mark.parametrize(
    ("policy", "good_step", "rollbacks_done", "non_finite", "action"),
    [
        (HALT, 50, 0, False, Action.HALTED),
        (CONTINUE, 50, 0, False, Action.PINNED),
        (CONTINUE, None, 0, False, Action.NONE),
        (CONTINUE, 50, 0, True, Action.HALTED),  # updates are vetoed: nothing to continue
        (ROLLBACK, 50, 1, False, Action.ROLLED_BACK),
        (ROLLBACK, 50, 1, True, Action.ROLLED_BACK),
        (ROLLBACK, 50, 2, False, Action.HALTED),  # max_rollbacks
        (ROLLBACK, None, 0, False, Action.HALTED),  # nowhere to go back to
    ],
)
def test_the_action(policy, good_step, rollbacks_done, non_finite, action):
    assert policy.action(good_step, rollbacks_done, non_finite) is action
