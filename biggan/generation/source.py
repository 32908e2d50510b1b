"""A trained generator and where it comes from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from biggan.generation.standing_stats import standing_statistics
from biggan.models.networks import Generator


@dataclass(frozen=True)
class Source:
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

    def at(self, truncation: float | None) -> Generator:
        """A copy with standing statistics for `truncation`: the export's own, or taken anew, which takes a while."""
        stored = self.standing.get(truncation_key(truncation))
        if stored is None:
            return standing_statistics(self.generator, truncation)
        copied = copy.deepcopy(self.generator)
        unknown = copied.load_state_dict(dict(stored), strict=False).unexpected_keys
        assert not unknown, unknown
        return copied


def truncation_key(truncation: float | None) -> str:
    """What a truncation is called in files: `none`, `1.0`, `0.5`."""
    return "none" if truncation is None else str(float(truncation))
