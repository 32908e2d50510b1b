"""The interface of feature extractors: one row of features and one row of logits for each image.

Metrics computed in different features cannot be compared. Every `Extractor` therefore has an identity. Each result
records it, and each cache is keyed by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extracted:
    """Features and logits of n images."""

    features: Tensor
    """float32 [n, dim]."""
    logits: Tensor
    """float32 [n, logits], before the softmax."""


class Extractor(Protocol):
    """A network with fixed weights that maps images to features and logits."""

    @property
    def name(self) -> str:
        """Name in results: `inception`, `classifier` or, for example, `torchvision:resnet18`."""

    @property
    def identity(self) -> str:
        """Name, checksum of the weights, and preprocessing."""

    @property
    def preprocessing(self) -> str:
        """Resizing and scaling of the images, in words."""

    @property
    def dim(self) -> int:
        """Number of features per image."""

    @property
    def logits(self) -> int:
        """Number of logits per image."""

    @property
    def held_out_accuracy(self) -> float | None:
        """Accuracy of a classifier of the data set's own classes on real images held out; None for other networks.

        Only such a classifier can measure whether generated images show the class they were conditioned on.
        """

    def __call__(self, images: Tensor) -> Extracted:
        """Return features and logits of images uint8 [n, R, R, 3] on the network's device."""


def to_unit_interval(images: Tensor) -> Tensor:
    """Convert uint8 [n, R, R, 3] to float32 [n, 3, R, R] in [0, 1], as torchvision's ToTensor does."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div(255)
