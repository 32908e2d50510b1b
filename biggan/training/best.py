"""Which checkpoints evaluation found best. Each holds its own score, so no other file can disagree with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
