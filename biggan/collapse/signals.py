"""Signals of a run: means over the steps since the last logged step, and their history in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from biggan.distributed.collectives import mean_over_processes

DENSE = 256
"""Number of newest observations of a signal that are all kept; older ones have gaps that grow with their age."""


OF_THE_LOSS = ("d_loss*", "g_loss*", "d_logit_*", "d_accuracy_*", "?_grad_norm", "d_gradient")
"""Signals in the unit of the adversarial loss."""


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

    def forget_losses(self) -> None:
        """Drop the signals whose scale another loss changes: their past says nothing about it."""
        kept = {name: s for name, s in self.series.items() if not any(fnmatchcase(name, p) for p in OF_THE_LOSS)}
        self.series = kept

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
        """float64 [2, names]: the sums, and the number of steps that gave each name. (A term that is not due in every
        step is not in all of them.)"""

    def add(self, stats: Mapping[str, Tensor], veto: Tensor) -> None:
        """Add the statistics of one step, device scalars, unless `veto`, 0 or 1, is 1."""
        # By name, not by position: a checkpoint returns the names in another order than the step gives them.
        self._include(tuple(sorted({*self._names, *stats})))
        one, zero = torch.ones_like(veto), torch.zeros_like(veto)
        given = [stats.get(name, zero) for name in self._names]
        rows = torch.stack([*given, *(one if name in stats else zero for name in self._names)]).double().view(2, -1)
        rows = torch.where(veto == 0, rows, 0.0)  # a vetoed step did not update the weights; its values may be NaN
        self._sums = rows if self._sums is None else self._sums + rows

    def close(self, group: ProcessGroup | None) -> dict[str, float]:
        """Return the means over steps and processes, and reset the window. Collective; waits for the device."""
        assert self._sums is not None, "no step was added"
        sums, steps = self._sums
        # Without a finite step a name has no mean: NaN.
        means = mean_over_processes(sums / steps, group).tolist()
        names, self._names, self._sums = self._names, (), None
        return dict(zip(names, means, strict=True))

    def tensors(self, group: ProcessGroup | None) -> dict[str, Tensor]:
        """Return the state for a checkpoint: name -> float64 [2], the sum and the number of steps. Collective.

        Afterwards every process holds the mean of all sums, which is all that a run resumed from the checkpoint has.
        """
        if self._sums is None:
            return {}
        self._sums = mean_over_processes(self._sums, group)
        return {name: self._sums[:, k].contiguous() for k, name in enumerate(self._names)}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restore the state that `tensors` returned."""
        self._names, self._sums = tuple(sorted(tensors)), None
        if tensors:
            self._sums = torch.stack([tensors[name] for name in self._names], dim=1).to(device)

    def _include(self, names: tuple[str, ...]) -> None:
        """Give the sums a column for each of `names`, sorted, which include those so far."""
        if self._sums is not None and names != self._names:
            nothing = torch.zeros_like(self._sums[:, 0])
            columns = dict(zip(self._names, self._sums.unbind(1), strict=True))
            self._sums = torch.stack([columns.get(name, nothing) for name in names], dim=1)
        self._names = names
