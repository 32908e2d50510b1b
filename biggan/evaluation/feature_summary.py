"""What is kept of feature rows: their moments, of all and of each class, and a bounded number of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.moments import Moments
from biggan.evaluation.tensor_file import prefixed, without_prefix

MOST_PER_CLASS_BYTES = 4 * 2**30
"""Moments of every class may take so much; more is refused before it is begun."""


class Summary:
    """Of feature rows [n, dim] with numbers and labels; memory does not grow with their number."""

    def __init__(self, dim: int, classes: int, keep: Callable[[int], bool], device: torch.device):
        """`keep(number)` says whether a row itself is kept; moments of each class are of `classes`, 0 for none."""
        self.moments = Moments(dim, device)
        self.of_class = [Moments(dim, device) for _ in range(classes)]
        self._keep, self._dim, self._device = keep, dim, device
        self.numbers = torch.empty(0, dtype=torch.long)
        """Of the kept rows."""
        self.rows = torch.empty(0, dim)
        """Kept, float32, in host memory, in the order of `numbers`."""
        self.labels = torch.empty(0, dtype=torch.long)
        """Of the kept rows."""
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, numbers: range, labels: Tensor, features: Tensor) -> None:
        """Rows float32 [n, dim], on the device, with their numbers; labels int64 [n], on the host."""
        self.moments.add(features)
        if self.of_class:
            for k in labels.unique().tolist():
                self.of_class[k].add(features[(labels == k).to(features.device)])
        kept = [k for k, number in enumerate(numbers) if self._keep(number)]
        if kept:
            self._new.append((torch.tensor([numbers[k] for k in kept]), features[kept].cpu(), labels[kept]))

    def _settle(self) -> None:
        parts = [(self.numbers, self.rows, self.labels), *self._new]
        self.numbers, self.rows, self.labels = (torch.cat([part[k] for part in parts]) for k in range(3))
        self._new = []

    def combined(self, process: Process) -> Summary:
        """That of all processes, the same on each. Collective."""
        self._settle()
        whole = Summary(self._dim, 0, self._keep, self._device)
        whole.moments = self.moments.combined(process)
        whole.of_class = [moments.combined(process) for moments in self.of_class]
        shares = process.gather((self.numbers, self.rows, self.labels))
        numbers, rows, labels = (torch.cat([share[k] for share in shares]) for k in range(3))
        order = numbers.argsort()
        whole.numbers, whole.rows, whole.labels = numbers[order], rows[order], labels[order]
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        self._settle()
        found = {"numbers": self.numbers, "rows": self.rows, "labels": self.labels}
        for k, moments in enumerate([self.moments, *self.of_class]):
            found |= prefixed(f"moments{k}/", moments.tensors())
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.numbers, self.rows, self.labels = tensors["numbers"], tensors["rows"], tensors["labels"]
        for k, moments in enumerate([self.moments, *self.of_class]):
            moments.restore(without_prefix(f"moments{k}/", tensors))


def check_per_class(dim: int, classes: int) -> None:
    """Raise InputError if moments of every class would take too much memory."""
    if (needed := 2 * classes * dim * dim * 8) > MOST_PER_CLASS_BYTES:
        raise InputError(
            f"--per-class: moments of {classes} classes of {dim} features take {needed / 2**30:.3g} GiB, at most "
            f"{MOST_PER_CLASS_BYTES / 2**30:g} are allowed; leave it out, or use --features classifier"
        )
