"""A trained generator, with its classes, its origin and its stored statistics."""

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
    """EMA generator, on the device, in evaluation mode, with the running BatchNorm statistics of training."""
    classes: tuple[str, ...]
    origin: str
    """`runs/a@1200`, or the path of an export."""
    step: int | None
    images_seen: int | None
    """Number of real images that training had used."""
    standing: Mapping[str, Mapping[str, Tensor]]
    """Stored standing statistics, by `truncation_key`: BatchNorm buffers by name. Empty for a run."""
    run: Path | None = None
    """Folder of the run. None for an export, and for a checkpoint outside its run."""

    def at(self, truncation: float | None, on_batch: Callable[[], object] = lambda: None) -> Generator:
        """Return a copy with standing statistics for `truncation`.

        Stored statistics are used if there are any. Otherwise they are computed, which takes a while, and `on_batch()`
        is called after each batch.
        """
        stored = self.stored_statistics(truncation)
        if stored is None:
            return standing_statistics(self.generator, truncation, on_batch=on_batch)
        copied = copy.deepcopy(self.generator)
        unknown = copied.load_state_dict(dict(stored), strict=False).unexpected_keys
        assert not unknown, unknown
        return copied

    def stored_statistics(self, truncation: float | None) -> Mapping[str, Tensor] | None:
        """Return the stored statistics for `truncation`; None if they would have to be computed.

        The released generators (`scaled_latents`) store statistics in small steps of the truncation. Between two steps
        they are interpolated linearly.
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
        fraction = (truncation - low) / (high - low)
        return {name: torch.lerp(statistic, after[name], fraction) for name, statistic in before.items()}

    def nearest_stored_truncation(self, truncation: float) -> float | None:
        """Return the truncation nearest to `truncation` that has stored statistics; None if only `none` has any."""
        stored = [float(key) for key in self.standing if key != truncation_key(None)]
        return min(stored, key=lambda t: abs(t - truncation), default=None)


def truncation_key(truncation: float | None) -> str:
    """Return the name of a truncation in files: `none`, `1.0`, `0.5`."""
    return "none" if truncation is None else str(float(truncation))
