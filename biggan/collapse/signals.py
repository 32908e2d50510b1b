"""Signals of a run: means over the steps since the last logged step, and their history in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from biggan.distributed.collectives import mean_over_processes

DENSE = 256
"""Number of newest observations of a signal that are all kept; older ones have gaps that grow with their age."""


@dataclass
class Series:
    """One signal: values at ascending generator steps."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """Append one observation; at 2 * DENSE observations, drop every second one of the older half."""
        assert not self.steps or step > self.steps[-1], "steps ascend"
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) == 2 * DENSE:
            self.steps[:DENSE], self.values[:DENSE] = self.steps[:DENSE:2], self.values[:DENSE:2]


class History:
    """Series by signal name; names are keys of `metrics.jsonl`."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Append the observations of generator step `step`."""
        for name, value in row.items():
            self.series.setdefault(name, Series()).add(step, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint: name -> float64 [2, n], steps and values."""
        return {
            name: torch.tensor([series.steps, series.values], dtype=torch.float64)
            for name, series in self.series.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self.series = {
            name: Series([int(step) for step in rows[0].tolist()], rows[1].tolist()) for name, rows in tensors.items()
        }


class Window:
    """Sums of per-step scalars on the device, without synchronization or communication before `close`."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        """float64 [names + 1]; the last element is the number of steps."""

    def add(self, stats: Mapping[str, Tensor], veto: Tensor) -> None:
        """Add the statistics of one step (device scalars with the same names each time) unless `veto`, 0 or 1, is 1."""
        # By name, not by position: a checkpoint returns the names in another order than the step gives them.
        self._names = tuple(sorted(stats))
        values = torch.stack([*(stats[name] for name in self._names), torch.ones_like(veto)]).double()
        values = torch.where(veto == 0, values, 0.0)  # a vetoed step did not update the weights; its values may be NaN
        self._sums = values if self._sums is None else self._sums + values

    def close(self, group: ProcessGroup | None) -> dict[str, float]:
        """Return the means over steps and processes, and reset the window. Collective; waits for the device."""
        assert self._sums is not None, "no step was added"
        means = mean_over_processes(self._sums[:-1] / self._sums[-1], group).tolist()
        self._sums = None
        return dict(zip(self._names, means, strict=True))

    def tensors(self, group: ProcessGroup | None) -> dict[str, Tensor]:
        """Return the state for a checkpoint: name -> float64 [2], the sum and the number of steps. Collective.

        Afterwards every process holds the mean of all sums, which is all that a run resumed from the checkpoint has.
        """
        if self._sums is None:
            return {}
        self._sums = mean_over_processes(self._sums, group)
        *sums, steps = self._sums
        return {name: torch.stack([total, steps]) for name, total in zip(self._names, sums, strict=True)}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore the state that `tensors` returned."""
        self._names, self._sums = tuple(sorted(tensors)), None
        if tensors:
            rows = torch.stack([tensors[name] for name in self._names])
            self._sums = torch.cat([rows[:, 0], rows[:1, 1]]).to(device)
