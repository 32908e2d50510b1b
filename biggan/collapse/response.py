"""The policy after a verdict: which verdicts call for an action, and which action. Pure; the run carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from biggan.collapse.detector import Alarm, Level, Verdict


class Action(StrEnum):
    """The answer to an alarm. The values are those of `action` in `collapse/events.jsonl`."""

    NONE = "none"
    """Training continues, and there is no checkpoint from before the onset to pin."""
    PINNED = "pinned"
    """Training continues; the checkpoints from before the onset are kept."""
    ROLLED_BACK = "rolled back"
    """Training resumes from the last good checkpoint, on another trajectory."""
    HALTED = "halted"
    """The run stops."""


@dataclass(frozen=True)
class ResponsePolicy:
    """The config's answer to an alarm."""

    on_collapse: Literal["halt", "rollback", "continue"]
    max_rollbacks: int

    def level_after(self, previous: Level, verdict: Verdict) -> Level:
        """Return the run's level after `verdict`.

        An alarm lasts until the run is healthy again: the signals that confirmed it may fall back one by one.
        """
        return previous if verdict.level is Level.WARNING and previous.is_alarm else verdict.level

    def continues(self, non_finite: bool) -> bool:
        """Return True if training continues after an alarm. A non-finite run cannot: its updates are vetoed."""
        return self.on_collapse == "continue" and not non_finite

    def must_act(self, previous: Level, verdict: Verdict, non_finite: bool) -> bool:
        """Return True if `verdict` is an alarm that the run has not answered yet by continuing."""
        return verdict.level.is_alarm and not (previous.is_alarm and self.continues(non_finite))

    def action(self, good_step: int | None, rollbacks_done: int, non_finite: bool) -> Action:
        """Return the action; `good_step` is the newest complete checkpoint from before the onset, None if none is."""
        if self.on_collapse == "rollback" and good_step is not None and rollbacks_done < self.max_rollbacks:
            return Action.ROLLED_BACK
        if not self.continues(non_finite):
            return Action.HALTED
        return Action.NONE if good_step is None else Action.PINNED


def alarm_after(previous: Alarm | None, level: Level, verdict: Verdict) -> Alarm | None:
    """Return the active alarm after `verdict`; None if the run's `level` is no alarm."""
    if not level.is_alarm:
        return None
    confirming = [d.signal for d in verdict.departures if d.confirms]
    if previous is None:
        return Alarm(verdict.onset_step or verdict.step, tuple(confirming))
    return Alarm(previous.onset_step, tuple(dict.fromkeys([*previous.signals, *confirming])))
