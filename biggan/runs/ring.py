"""Decides which checkpoints are kept: a ring, dense for recent steps and sparse for older ones, and pinned ones.

The decisions are pure functions of steps and sizes and need no torch. The module also reads and writes `pinned.json`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from biggan.files import write_atomically
from biggan.json_file import Count, read_if_present, seal
from biggan.runs.state_file import read_state

PINNED = "pinned.json"
MAX_PINNED = 4
"""Maximum number of checkpoints that one alarm pins: the newest ones before its onset, and the oldest."""


@dataclass(frozen=True)
class Ring:
    """Retention rules, applied after each checkpoint to the ones that are left.

    They always keep the newest `keep_last` and the pinned checkpoints. In addition they keep

    - for each step s of the last `horizon_steps` / 2, a checkpoint before s that is at most twice as old as s, or else
      the last one written before s: a checkpoint is removed if the gap that it leaves is at most as long as the age of
      the gap's newer end;
    - one checkpoint that is at least `horizon_steps` / 2 old, as soon as there is one.
    """

    keep_last: int
    horizon_steps: int
    keep_every_steps: int
    """Checkpoints whose step is a multiple of this are kept permanently; 0 keeps none."""
    max_bytes: int
    """Maximum size of all checkpoints together; 0 is no limit."""
    keep_best: int = 0
    """Number of checkpoints that are kept for their score, as if they were pinned."""

    def steps_to_remove(
        self,
        bytes_of: Mapping[int, int],
        pinned: Collection[int],
        incoming_bytes: int = 0,
        good: int | None = None,
    ) -> list[int]:
        """Return the steps to remove from the existing ones (`bytes_of`: step -> size in bytes), ascending.

        If possible, the others and the next checkpoint of `incoming_bytes` fit into `max_bytes`. To make room, the
        least useful checkpoints are removed first, permanent or not, then the pinned ones, the oldest first. The
        newest checkpoint and `good` are never removed.
        """
        steps, pinned = sorted(bytes_of), {*pinned} if good is None else {*pinned, good}
        permanent = {s for s in steps if self.keep_every_steps and s % self.keep_every_steps == 0}
        kept = sorted(self._ring(steps, pinned) | permanent)
        while self.max_bytes and sum(bytes_of[s] for s in kept) + incoming_bytes > self.max_bytes:
            unpinned = [s for s in kept[:-1] if s not in pinned]
            removable_pins = [s for s in kept[:-1] if s in pinned and s != good]
            if not unpinned and not removable_pins:
                break
            kept.remove(self._least_useful(unpinned, kept) if unpinned else removable_pins[0])
        return [s for s in steps if s not in kept]

    def _ring(self, steps: Sequence[int], pinned: Collection[int]) -> set[int]:
        """Return the part of `steps` (ascending) to keep, regardless of `max_bytes` and `keep_every_steps`."""
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
        """Return the newest of `steps` (ascending) that is half a horizon old; the first one if none is."""
        return max((s for s in steps if 2 * (steps[-1] - s) >= self.horizon_steps), default=steps[0])

    def _least_useful(self, candidates: Sequence[int], kept: Sequence[int]) -> int:
        """Return the checkpoint to remove when `max_bytes` is exceeded.

        `candidates` is a part of `kept` without its last step; both are ascending. A checkpoint goes first if it is
        older than another one that is half a horizon old, then the one that leaves the smallest gap for its age. The
        oldest one goes last. Its successor takes this role once the oldest is beyond the horizon, to replace it.
        """
        if candidates[0] < self._far(kept):
            return candidates[0]
        now, next_step = kept[-1], 2 * kept[-1] - kept[-2]  # expects the same interval as the last one

        def usefulness(step: int) -> float:
            index = kept.index(step)
            older, newer = kept[max(0, index - 1)], kept[index + 1]
            is_end = index == 0 or now - older > self.horizon_steps
            return math.inf if is_end else (newer - older) / (next_step - newer)

        return min(reversed(candidates), key=usefulness)

    def max_kept(self, every_steps: int) -> int:
        """Return the maximum number of kept checkpoints, without pinned and permanent ones.

        Checkpoints are written every `every_steps` generator steps. Beyond the newest `keep_last`, take ages n in units
        of `every_steps`: n + 1 at least doubles with every second checkpoint.
        """
        ratio = (1 + self.horizon_steps / every_steps) / self.keep_last
        return self.keep_best + self.keep_last + (2 + math.floor(2 * math.log2(ratio)) if ratio > 1 else 0)


@dataclass(frozen=True)
class PinnedCheckpoints:
    """Checkpoints that the ring keeps because of an alarm."""

    good: int | None = None
    """Step of the last good checkpoint, which a rollback goes back to; None before any alarm."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Pinned step -> reason."""


def steps_on_disk(root: Path) -> list[int]:
    """Return the steps of the checkpoint folders in `root`, complete or not, ascending."""
    names = (f.name for f in root.iterdir() if f.is_dir())
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


@dataclass(frozen=True)
class _PinRecord:
    """The contents of `pinned.json` beside its checksum."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    good: Count | None
    pinned: dict[Count, str]


def read_pins(root: Path) -> PinnedCheckpoints:
    """Return the pins of the checkpoints in `root`; none if there is no `pinned.json`.

    Raises CheckpointError if the file is damaged or cannot be read: without the pins, their checkpoints would be
    removed.
    """
    fix = "restore it, or remove it to give up the pinned checkpoints"
    record = read_if_present(root / PINNED, _PinRecord, fix, sealed=True)
    return PinnedCheckpoints() if record is None else PinnedCheckpoints(record.good, record.pinned)


def write_pins(root: Path, pins: PinnedCheckpoints) -> None:
    """Replace `pinned.json` atomically, without the pins of checkpoints that no longer exist."""
    existing = steps_on_disk(root)
    good = pins.good if pins.good in existing else None
    reasons = {str(step): pins.reasons[step] for step in sorted(pins.reasons) if step in existing}
    write_atomically(root / PINNED, seal({"good": good, "pinned": reasons}))


def pin_before(root: Path, onset_step: int, good_step: int, reason: str) -> PinnedCheckpoints:
    """Pin the 3 newest checkpoints up to `good_step` and the oldest one, and return all pins.

    The newest pinned checkpoint becomes the good one. `onset_step` and `reason` of the alarm are part of the recorded
    reason. Earlier pins stay. Without a checkpoint up to `good_step` nothing changes.
    """
    before = [step for step in steps_on_disk(root) if step <= good_step]
    pins = read_pins(root)
    if not before:
        return pins
    why = f"before the collapse suspected from step {onset_step} on: {reason}"
    new = dict.fromkeys([*before[:1], *before[1 - MAX_PINNED :]], why)
    pins = PinnedCheckpoints(before[-1], {**pins.reasons, **new})
    write_pins(root, pins)
    return pins


LOWER_IS_BETTER = frozenset({"fid", "kid"})


@dataclass(frozen=True)
class Score:
    """Score of one checkpoint's EMA generator, by the metric that the run chose."""

    step: int
    metric: str
    value: float
    protocol: Mapping[str, Any]
    """Settings of the evaluation; only scores with equal protocols are compared. The path of the data set is left out,
    because the data set may move; its checksum identifies it."""

    @property
    def loss(self) -> float:
        """The value, with its sign set so that smaller is better for every metric."""
        return self.value if self.metric in LOWER_IS_BETTER else -self.value


def read_score(state_file: Path) -> Score | None:
    """Return the score in a checkpoint's `state.json`; None if it is missing, not finite or damaged.

    Raises CheckpointError if the file system does not answer.
    """
    state = read_state(state_file) or {}
    try:
        evaluation = state["evaluation"]
        value = float(evaluation["metrics"][evaluation["metric"]])
        protocol = {key: value for key, value in evaluation["protocol"].items() if key != "real"}
        return Score(state["step"], str(evaluation["metric"]), value, protocol) if math.isfinite(value) else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def best_steps(state_files: Iterable[Path], count: int) -> list[int]:
    """Return the steps of the `count` checkpoints with the best scores, best first, given their `state.json` files.

    Only scores with the metric and protocol of the newest score are compared.
    """
    scores = [score for score in map(read_score, state_files) if score is not None]
    if not scores:
        return []
    newest = max(scores, key=lambda s: s.step)
    comparable = [s for s in scores if (s.metric, s.protocol) == (newest.metric, newest.protocol)]
    return [s.step for s in sorted(comparable, key=lambda s: (s.loss, s.step))][:count]
