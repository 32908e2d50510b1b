"""What an image is to a metric: a row of features, and perhaps the logits of a classifier.

Numbers taken in different features are different numbers: an `Extractor` has an identity, every result says it, and
every cache is keyed by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extracted:
    """Of n images: features float32 [n, dim], and logits float32 [n, logits] before the softmax."""

    features: Tensor
    logits: Tensor


class Extractor(Protocol):
    """A fixed network that looks at images."""

    @property
    def name(self) -> str:
        """What results say: `inception`, `classifier`, `torchvision:resnet18`."""

    @property
    def identity(self) -> str:
        """Name, checksum of the weights, preprocessing."""

    @property
    def preprocessing(self) -> str:
        """How images are resized and scaled, in words."""

    @property
    def dim(self) -> int:
        """Features of one image."""

    @property
    def logits(self) -> int:
        """Logits of one image."""

    @property
    def held_out_accuracy(self) -> float | None:
        """Of a classifier of the data set's own classes, on real images it was not trained on; None of any other.

        Only with such a one can generated images be asked whether they show the class that was asked for.
        """

    def __call__(self, images: Tensor) -> Extracted:
        """Look at images uint8 [n, R, R, 3], on the network's device."""


def to_unit_interval(images: Tensor) -> Tensor:
    """uint8 [n, R, R, 3] -> float32 [n, 3, R, R] in [0, 1], as torchvision's ToTensor scales."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(255)
