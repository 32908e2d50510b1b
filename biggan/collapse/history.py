"""What was observed of a run so far, signal by signal, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

DENSE = 256
"""Newest observations of a signal that are all kept; older ones are thinned, to gaps that grow with their age."""


@dataclass
class Series:
    """One signal: values at ascending steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Append one observation; of the older half, every second one goes when there are too many."""
        assert not self.steps or step > self.steps[-1], "steps ascend"
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) == 2 * DENSE:
            self.steps[:DENSE], self.values[:DENSE] = self.steps[:DENSE:2], self.values[:DENSE:2]


class History:
    """Series by signal name: the keys of `metrics.jsonl`."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Append what was observed at G step `step`."""
        for name, value in row.items():
            self.series.setdefault(name, Series()).add(step, value)

    def tensors(self) -> dict[str, Tensor]:
        """For the checkpoint: name -> float64 [2, n], steps and values."""
        return {
            name: torch.tensor([series.steps, series.values], dtype=torch.float64)
            for name, series in self.series.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what was saved."""
        self.series = {
            name: Series([int(step) for step in rows[0].tolist()], rows[1].tolist()) for name, rows in tensors.items()
        }
