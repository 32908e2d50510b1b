"""A trained generator and where it comes from."""

from __future__ import annotations

import copy
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from biggan.generation.standing_stats import standing_statistics
from biggan.models.networks import Generator


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator to sample from or to evaluate."""

    generator: Generator
    """The average (EMA), on the device, in evaluation mode, with BatchNorm's running statistics of training."""
    classes: tuple[str, ...]
    origin: str
    """`runs/a@1200`, or an export's folder."""
    step: int | None
    images_seen: int | None
    """Real images that training had seen."""
    standing: Mapping[str, Mapping[str, Tensor]]
    """By `truncation_key`: standing statistics (BatchNorm's buffers by name) that an export holds; a run has none."""
    run: Path | None = None
    """The run's folder; None of an export, and of a checkpoint by itself."""

    def at(self, truncation: float | None, on_batch: Callable[[], object] = lambda: None) -> Generator:
        """A copy with standing statistics for `truncation`: the export's own, or taken anew, which takes a while.

        `on_batch()` is called after each batch that they are taken of.
        """
        stored = self.held(truncation)
        if stored is None:
            return standing_statistics(self.generator, truncation, on_batch=on_batch)
        copied = copy.deepcopy(self.generator)
        unknown = copied.load_state_dict(dict(stored), strict=False).unexpected_keys
        assert not unknown, unknown
        return copied

    def held(self, truncation: float | None) -> Mapping[str, Tensor] | None:
        """The statistics for `truncation` that an export holds; None if they would have to be taken anew.

        Of the released generators (`scaled_latents`), which have them in small steps, also between two steps: linearly.
        """
        exact = self.standing.get(truncation_key(truncation))
        if exact is not None or truncation is None or not self.generator.scaled_latents:
            return exact
        steps = sorted(float(key) for key in self.standing if key != truncation_key(None))
        above = bisect(steps, truncation)
        if above in (0, len(steps)):
            return None
        low, high = steps[above - 1], steps[above]
        before, after = self.standing[truncation_key(low)], self.standing[truncation_key(high)]
        share = (truncation - low) / (high - low)
        return {name: torch.lerp(statistic, after[name], share) for name, statistic in before.items()}

    def nearest_held(self, truncation: float) -> float | None:
        """Of the truncations that an export holds statistics for, the nearest; None if there is only that without."""
        held = [float(key) for key in self.standing if key != truncation_key(None)]
        return min(held, key=lambda t: abs(t - truncation), default=None)


def truncation_key(truncation: float | None) -> str:
    """What a truncation is called in files: `none`, `1.0`, `0.5`."""
    return "none" if truncation is None else str(float(truncation))
