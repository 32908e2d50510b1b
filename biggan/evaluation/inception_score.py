"""The Inception Score, of logits that come in batches."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from biggan.distributed.collectives import all_gather_rows
from biggan.distributed.process import Process


class InceptionScore:
    """exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016, section 4), for each of `splits` runs of images, in float64.

    Split i of n images is those numbered from i n // splits to (i + 1) n // splits, as everyone has it. KL is taken as
    the entropy of the mean prediction less the mean of the predictions' entropies.
    """

    def __init__(self, total_images: int, classes: int, splits: int = 10, device: torch.device | str = "cpu"):
        """Of no images yet; each of `total_images` >= `splits` is to be added once, on some process."""
        assert total_images >= splits >= 1, "each split needs an image"
        self._bounds = [i * total_images // splits for i in range(splits + 1)]
        # Of each split: the sums of predictions and of their entropies, and the number of images.
        self._sums = torch.zeros(splits, classes + 2, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, first_number: int, logits: Tensor) -> None:
        """Add logits [n, classes], of any float type, of images `first_number`, `first_number` + 1, ..."""
        assert 0 <= first_number <= first_number + len(logits) <= self._bounds[-1], "more images than were announced"
        predictions = logits.to(self._sums).softmax(1)
        entropies = torch.special.entr(predictions).sum(1, keepdim=True)
        rows = torch.cat([predictions, entropies, torch.ones_like(entropies)], 1)
        for sums, (begin, end) in zip(self._sums, pairwise(self._bounds), strict=True):
            sums += rows[max(begin - first_number, 0) : max(end - first_number, 0)].sum(0)

    @torch.no_grad()
    def combined(self, process: Process) -> InceptionScore:
        """Over the images of all processes, the same on all; of one process, `self`. Collective."""
        if process.group is None:
            return self
        splits, width = self._sums.shape
        whole = InceptionScore(self._bounds[-1], width - 2, splits, self._sums.device)
        whole._sums = all_gather_rows(self._sums.flatten(), process.group).sum(0).view(splits, width)
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, for `restore`."""
        return {"sums": self._sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` gave, to the bit; of as many images, classes and splits."""
        self._sums.copy_(tensors["sums"])

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation (of the splits there are, not an estimate for more) over splits."""
        counts = self._sums[:, -1:]
        images = [end - begin for begin, end in pairwise(self._bounds)]
        assert counts.flatten().tolist() == images, "not every image was added once"
        means = self._sums[:, :-1] / counts
        scores = (torch.special.entr(means[:, :-1]).sum(1) - means[:, -1]).exp()
        return float(scores.mean()), float(scores.std(correction=0))
