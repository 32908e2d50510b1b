"""Accumulators over batches of images: feature moments, a bounded number of feature rows, score and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.features import Extracted
from biggan.evaluation.inception_score import InceptionScore
from biggan.evaluation.moments import Moments
from biggan.evaluation.tensor_file import prefixed, without_prefix

MAX_PER_CLASS_BYTES = 4 * 2**30
"""Memory limit for the moments of every class. A larger request is refused before any work starts."""


class FeatureSummary:
    """Moments of feature rows [n, dim], and a bounded number of the rows themselves.

    Each row has a number (the index of its image) and a label. Memory does not grow with the number of rows.
    """

    def __init__(self, dim: int, classes: int, keep: Callable[[int], bool], device: torch.device):
        """Start empty. Keep row `number` itself if `keep(number)`; keep moments of `classes` classes (0 for none)."""
        self.moments = Moments(dim, device)
        self.class_moments = [Moments(dim, device) for _ in range(classes)]
        self._keep, self._dim, self._device = keep, dim, device
        self.numbers = torch.empty(0, dtype=torch.long)
        """Numbers of the kept rows, int64."""
        self.rows = torch.empty(0, dim)
        """Kept rows, float32, in host memory, in the order of `numbers`."""
        self.labels = torch.empty(0, dtype=torch.long)
        """Labels of the kept rows, int64."""
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, numbers: range, labels: Tensor, features: Tensor) -> None:
        """Add rows float32 [n, dim], on the device, with their numbers and labels (int64 [n], on the host)."""
        self.moments.add(features)
        if self.class_moments:
            for k in labels.unique().tolist():
                self.class_moments[k].add(features[(labels == k).to(features.device)])
        kept = [k for k, number in enumerate(numbers) if self._keep(number)]
        if kept:
            self._pending.append((torch.tensor([numbers[k] for k in kept]), features[kept].cpu(), labels[kept]))

    def _concatenate_pending(self) -> None:
        parts = [(self.numbers, self.rows, self.labels), *self._pending]
        self.numbers, self.rows, self.labels = (torch.cat([part[k] for part in parts]) for k in range(3))
        self._pending = []

    def combined(self, process: Process) -> FeatureSummary:
        """Return the summary over the rows of all processes, the same on each. Collective."""
        self._concatenate_pending()
        total = FeatureSummary(self._dim, 0, self._keep, self._device)
        total.moments = self.moments.combined(process)
        total.class_moments = [moments.combined(process) for moments in self.class_moments]
        parts = process.gather((self.numbers, self.rows, self.labels))
        numbers, rows, labels = (torch.cat([part[k] for part in parts]) for k in range(3))
        order = numbers.argsort()
        total.numbers, total.rows, total.labels = numbers[order], rows[order], labels[order]
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete state, by name."""
        self._concatenate_pending()
        state = {"numbers": self.numbers, "rows": self.rows, "labels": self.labels}
        for k, moments in enumerate([self.moments, *self.class_moments]):
            state |= prefixed(f"moments{k}/", moments.tensors())
        return state

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self.numbers, self.rows, self.labels = tensors["numbers"], tensors["rows"], tensors["labels"]
        for k, moments in enumerate([self.moments, *self.class_moments]):
            moments.restore(without_prefix(f"moments{k}/", tensors))


class GeneratedSummary:
    """Feature summary, Inception Score sums and classification counts of generated images 0, 1, 2, ..."""

    def __init__(self, features: FeatureSummary, score: InceptionScore, classes: int):
        self.features, self.score = features, score
        self.class_images = torch.zeros(classes, dtype=torch.long)
        """Number of images conditioned on each class, int64 [classes]."""
        self.class_correct = torch.zeros(classes, dtype=torch.long)
        """Number of those whose largest logit is that class's. Meaningful only if logits are of the same classes."""

    def add(self, numbers: range, labels: Tensor, extracted: Extracted) -> None:
        """Add images `numbers`, conditioned on `labels` int64 [n], on the host."""
        self.features.add(numbers, labels, extracted.features)
        self.score.add(numbers.start, extracted.logits)
        correct = labels[extracted.logits.argmax(1).cpu() == labels]
        self.class_images += labels.bincount(minlength=len(self.class_images))
        self.class_correct += correct.bincount(minlength=len(self.class_correct))

    def combined(self, process: Process) -> GeneratedSummary:
        """Return the summary over the images of all processes, the same on each. Collective."""
        total = GeneratedSummary(self.features.combined(process), self.score.combined(process), len(self.class_images))
        for images, correct in process.gather((self.class_images, self.class_correct)):
            total.class_images += images
            total.class_correct += correct
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete state, by name."""
        # "asked", "read" and "summary/" are names in files of unfinished evaluations, which must keep loading.
        counts = {"asked": self.class_images, "read": self.class_correct}
        return counts | prefixed("score/", self.score.tensors()) | prefixed("summary/", self.features.tensors())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self.class_images, self.class_correct = tensors["asked"], tensors["read"]
        self.score.restore(without_prefix("score/", tensors))
        self.features.restore(without_prefix("summary/", tensors))


def check_per_class(dim: int, classes: int) -> None:
    """Raise InputError if moments of every class would take too much memory."""
    if (needed := 2 * classes * dim * dim * 8) > MAX_PER_CLASS_BYTES:
        raise InputError(
            f"--per-class: moments of {classes} classes of {dim} features need {needed / 2**30:.3g} GiB, and the limit "
            f"is {MAX_PER_CLASS_BYTES / 2**30:g} GiB; leave the flag out, or use --features classifier"
        )
