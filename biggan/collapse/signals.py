"""The signals of a run: means over the steps since the last log, and their history in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from biggan.distributed.collectives import mean_over_processes

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


class Window:
    """Sums of scalars; nothing is read back, or exchanged, before `close`."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        """float64 [names + 1], the last one the number of steps."""

    def add(self, stats: Mapping[str, Tensor], veto: Tensor) -> None:
        """Add the statistics of one step (device scalars, the same names each time) unless `veto`, 0 or 1, is 1."""
        values = torch.stack([*stats.values(), torch.ones_like(veto)]).double()
        values = torch.where(veto == 0, values, 0.0)  # a vetoed step is not part of the run; its values may be NaN
        self._names = tuple(stats)
        self._sums = values if self._sums is None else self._sums + values

    def close(self, group: ProcessGroup | None) -> dict[str, float]:
        """Means over steps and processes, and an empty window. Collective; waits for the device."""
        assert self._sums is not None, "no step was added"
        means = mean_over_processes(self._sums[:-1] / self._sums[-1], group).tolist()
        self._sums = None
        return dict(zip(self._names, means, strict=True))

    def tensors(self, group: ProcessGroup | None) -> dict[str, Tensor]:
        """For the checkpoint: name -> float64 [2], the sum and the number of steps. Collective.

        From here on every process has the mean of all sums: a run that goes on from the checkpoint has no more.
        """
        if self._sums is None:
            return {}
        self._sums = mean_over_processes(self._sums, group)
        *sums, steps = self._sums
        return {name: torch.stack([total, steps]) for name, total in zip(self._names, sums, strict=True)}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Become what was saved."""
        self._names, self._sums = tuple(tensors), None
        if tensors:
            rows = torch.stack(list(tensors.values()))
            self._sums = torch.cat([rows[:, 0], rows[:1, 1]]).to(device)
