"""What is gathered of generated images as they are made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from biggan.distributed.process import Process
from biggan.evaluation.feature_summary import Summary
from biggan.evaluation.features import Extracted
from biggan.evaluation.inception_score import InceptionScore
from biggan.evaluation.tensor_file import prefixed, without_prefix


class Tally:
    """Of images 0 to `images` - 1: their features' summary, the Inception Score's sums, classes asked for and read."""

    def __init__(self, summary: Summary, score: InceptionScore, classes: int):
        self.summary, self.score = summary, score
        self.asked = torch.zeros(classes, dtype=torch.long)
        """Images of each class."""
        self.read = torch.zeros(classes, dtype=torch.long)
        """Images of each class whose largest logit is that class's; of meaning where logits are of those classes."""

    def add(self, numbers: range, labels: Tensor, seen: Extracted) -> None:
        """Images `numbers`, asked to be of `labels` int64 [n], on the host."""
        self.summary.add(numbers, labels, seen.features)
        self.score.add(numbers.start, seen.logits)
        right = labels[seen.logits.argmax(1).cpu() == labels]
        self.asked += labels.bincount(minlength=len(self.asked))
        self.read += right.bincount(minlength=len(self.read))

    def combined(self, process: Process) -> Tally:
        """That of all processes, the same on each. Collective."""
        whole = Tally(self.summary.combined(process), self.score.combined(process), len(self.asked))
        for asked, read in process.gather((self.asked, self.read)):
            whole.asked += asked
            whole.read += read
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        found = {"asked": self.asked, "read": self.read}
        return found | prefixed("score/", self.score.tensors()) | prefixed("summary/", self.summary.tensors())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` gave."""
        self.asked, self.read = tensors["asked"], tensors["read"]
        self.score.restore(without_prefix("score/", tensors))
        self.summary.restore(without_prefix("summary/", tensors))
