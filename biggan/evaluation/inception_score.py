"""The Inception Score of logits that arrive in batches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from biggan.distributed.collectives import all_gather_rows
from biggan.distributed.process import Process


class InceptionScore:
    """exp(E KL(p(y|x) || p(y))) over each of `splits` consecutive ranges of images, accumulated in float64.

    The definition is in Salimans et al. 2016, section 4. Split i of n images contains images i n // splits to
    (i + 1) n // splits - 1, as in the usual implementations. The KL divergence is computed as the entropy of the mean
    prediction minus the mean entropy of the predictions.
    """

    def __init__(self, total_images: int, classes: int, splits: int = 10, device: torch.device | str = "cpu"):
        """Start empty. Each of `total_images` >= `splits` images must be added exactly once, on any process."""
        assert total_images >= splits >= 1, "each split needs an image"
        self._bounds = [i * total_images // splits for i in range(splits + 1)]
        # One row per split: the sum of predictions, the sum of their entropies, and the number of images.
        self._sums = torch.zeros(splits, classes + 2, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, first_number: int, logits: Tensor) -> None:
        """Add logits [n, classes], of any float dtype, of images `first_number`, `first_number` + 1, ..."""
        assert 0 <= first_number <= first_number + len(logits) <= self._bounds[-1], "more images than total_images"
        predictions = logits.to(self._sums).softmax(1)
        entropies = torch.special.entr(predictions).sum(1, keepdim=True)
        rows = torch.cat([predictions, entropies, torch.ones_like(entropies)], 1)
        for sums, (begin, end) in zip(self._sums, pairwise(self._bounds), strict=True):
            sums += rows[max(begin - first_number, 0) : max(end - first_number, 0)].sum(0)

    @torch.no_grad()
    def combined(self, process: Process) -> InceptionScore:
        """Return the score over the images of all processes, the same on each; `self` on one process. Collective."""
        if process.group is None:
            return self
        splits, width = self._sums.shape
        total = InceptionScore(self._bounds[-1], width - 2, splits, self._sums.device)
        total._sums = all_gather_rows(self._sums.flatten(), process.group).sum(0).view(splits, width)
        return total

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete state, by name."""
        return {"sums": self._sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned, bit for bit. Numbers of images, classes and splits must match."""
        self._sums.copy_(tensors["sums"])

    def score(self) -> tuple[float, float]:
        """Return mean and standard deviation over the splits.

        The deviation is that of these splits (no Bessel correction).
        """
        counts = self._sums[:, -1:]
        images = [end - begin for begin, end in pairwise(self._bounds)]
        assert counts.flatten().tolist() == images, "not every image was added exactly once"
        means = self._sums[:, :-1] / counts
        scores = (torch.special.entr(means[:, :-1]).sum(1) - means[:, -1]).exp()
        return float(scores.mean()), float(scores.std(correction=0))
