"""Which checkpoints are kept: a ring, dense near now and thinner backwards, and those that an alarm has pinned.

No torch here: pure decisions, and `pinned.json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from biggan.files import write_atomically

PINNED = "pinned.json"
MOST_PINNED = 4
"""Checkpoints that one alarm pins: the newest from before its onset, and the oldest there is."""


@dataclass(frozen=True)
class Ring:
    """The rules. Applied after each checkpoint, to what is left of the earlier ones, they keep in any case the newest
    `keep_last` and what is pinned, and

    - for each moment of the last `horizon_steps` / 2 a checkpoint from before it that is at most twice as long ago, or
      else the last one written before it: one goes if the gap it leaves is at most the age of the gap's newer end;
    - one that is at least `horizon_steps` / 2 old, as soon as there is one.
    """

    keep_last: int
    horizon_steps: int
    keep_every_steps: int
    """Steps that are multiples of this stay for good; 0: none."""
    max_bytes: int
    """All of them together; 0: no limit."""
    keep_best: int = 0
    """So many are kept for their score, as if they were pinned."""

    def doomed(
        self,
        bytes_of: Mapping[int, int],
        pinned: Collection[int],
        incoming_bytes: int = 0,
        good: int | None = None,
    ) -> list[int]:
        """The steps to remove of those that are there (`bytes_of`: step -> size), ascending.

        What stays is within `max_bytes`, `incoming_bytes` for the next one included, as far as that can be: what is
        missed least goes first, kept for good or not, then pins, the oldest first; never the newest and `good`.
        """
        steps, pinned = sorted(bytes_of), {*pinned} if good is None else {*pinned, good}
        for_good = {s for s in steps if self.keep_every_steps and s % self.keep_every_steps == 0}
        kept = sorted(self._ring(steps, pinned) | for_good)
        while self.max_bytes and sum(bytes_of[s] for s in kept) + incoming_bytes > self.max_bytes:
            spare = [s for s in kept[:-1] if s not in pinned]
            pins = [s for s in kept[:-1] if s in pinned and s != good]
            if not spare and not pins:
                break
            kept.remove(self._least_missed(spare, kept) if spare else pins[0])
        return [s for s in steps if s not in kept]

    def _ring(self, steps: Sequence[int], pinned: Collection[int]) -> set[int]:
        """What stays of `steps` (ascending) without the limit and `keep_every_steps`."""
        if not steps:
            return set()
        now, fixed = steps[-1], {*steps[-self.keep_last :], *pinned}
        far = self._far(steps)
        within = [s for s in steps if now - s <= self.horizon_steps or s == far or s in fixed]
        kept = within[:1]
        for step, newer in pairwise(within[1:]):
            if step in fixed or newer - kept[-1] > now - newer:
                kept.append(step)
        return {*kept, now}

    def _far(self, steps: Sequence[int]) -> int:
        """The newest of `steps` (ascending) that is half a horizon old; their first if none is."""
        return max((s for s in steps if 2 * (steps[-1] - s) >= self.horizon_steps), default=steps[0])

    def _least_missed(self, spare: Sequence[int], kept: Sequence[int]) -> int:
        """Which of `spare`, a part of `kept` (both ascending) without its last, goes for want of room.

        What is older than another one that is half a horizon old; else what leaves the smallest gap for its age. The
        far end is missed most, and its successor once the far end is beyond the horizon: so that it is replaced.
        """
        if spare[0] < self._far(kept):
            return spare[0]
        now, coming = kept[-1], 2 * kept[-1] - kept[-2]  # the next step, if it takes as long as the last one did

        def missed(step: int) -> float:
            place = kept.index(step)
            older, newer = kept[max(0, place - 1)], kept[place + 1]
            end = place == 0 or now - older > self.horizon_steps
            return math.inf if end else (newer - older) / (coming - newer)

        return min(reversed(spare), key=missed)

    def most_kept(self, every_steps: int) -> int:
        """At most so many are kept of those written every `every_steps`, besides pins and those kept for good.

        Beyond the newest `keep_last`, with ages of n `every_steps`, every other one has at least twice the n + 1.
        """
        span = (1 + self.horizon_steps / every_steps) / self.keep_last
        return self.keep_best + self.keep_last + (2 + math.floor(2 * math.log2(span)) if span > 1 else 0)


@dataclass(frozen=True)
class Pins:
    """Checkpoints that the ring does not remove."""

    good: int | None = None
    """Step of the last good one, the state to go back to; None before any alarm."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Step -> why it is pinned."""


def steps_on_disk(root: Path) -> list[int]:
    """Steps of the checkpoint folders in `root`, whole or not, ascending."""
    names = (f.name for f in root.iterdir() if f.is_dir())
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


def read_pins(root: Path) -> Pins:
    """The pins of the checkpoints in `root`: none if `pinned.json` is missing or damaged."""
    try:
        tree = json.loads((root / PINNED).read_text(encoding="utf-8"))
        good = tree["good"]
        return Pins(None if good is None else int(good), {int(s): str(r) for s, r in tree["pinned"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Pins()


def write_pins(root: Path, pins: Pins) -> None:
    """Replace `pinned.json` at once. Pins of checkpoints that are not there any more are left out."""
    there = steps_on_disk(root)
    good = pins.good if pins.good in there else None
    reasons = {str(step): pins.reasons[step] for step in sorted(pins.reasons) if step in there}
    write_atomically(root / PINNED, json.dumps({"good": good, "pinned": reasons}, indent=1))


def pin_before(root: Path, onset_step: int, good_step: int, reason: str) -> Pins:
    """Pin the 3 newest checkpoints up to `good_step` and the oldest one; the newest of them is named the good one.

    `onset_step` and `reason` of the alarm are written beside them. Earlier pins stay; with no checkpoint up to
    `good_step` nothing changes.
    """
    before = [step for step in steps_on_disk(root) if step <= good_step]
    pins = read_pins(root)
    if not before:
        return pins
    why = f"before the collapse suspected from step {onset_step} on: {reason}"
    new = dict.fromkeys([*before[:1], *before[1 - MOST_PINNED :]], why)
    pins = Pins(before[-1], {**pins.reasons, **new})
    write_pins(root, pins)
    return pins


LOWER_IS_BETTER = frozenset({"fid", "kid"})


@dataclass(frozen=True)
class Score:
    """Of one checkpoint's averaged generator, by the run's chosen metric."""

    step: int
    metric: str
    value: float
    protocol: Mapping[str, Any]
    """How it was measured; only numbers of one protocol are compared. Without the place of the data set, which may
    move: its checksum says what it is."""

    @property
    def loss(self) -> float:
        """Smaller is better, whatever the metric."""
        return self.value if self.metric in LOWER_IS_BETTER else -self.value


def read_score(state_file: Path) -> Score | None:
    """The score in a checkpoint's `state.json`; None if it was not measured, is not finite, or cannot be read."""
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        found = state["evaluation"]
        value = float(found["metrics"][found["metric"]])
        protocol = {key: value for key, value in found["protocol"].items() if key != "real"}
        return Score(state["step"], found["metric"], value, protocol) if math.isfinite(value) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def best_steps(state_files: Iterable[Path], most: int) -> list[int]:
    """Steps of the `most` best, best first, of checkpoints with these `state.json`: those measured as the newest
    measured one was."""
    scores = [score for score in map(read_score, state_files) if score is not None]
    if not scores:
        return []
    newest = max(scores, key=lambda s: s.step)
    comparable = [s for s in scores if (s.metric, s.protocol) == (newest.metric, newest.protocol)]
    return [s.step for s in sorted(comparable, key=lambda s: (s.loss, s.step))][:most]
