"""Views: what D is shown in place of the images, in both turns, fake and real alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.draws import Draw
from biggan.objectives.passes import Samples, single

TRANSLATION = 1 / 8
"""Largest shift, relative to the height or width."""
CUTOUT = 1 / 2
"""Side of the square that is cut out, relative to the height or width."""


@dataclass(frozen=True)
class DiffAugment:
    """Differentiable augmentation of single samples (Zhao et al. 2020, DiffAugment, section 3.2)."""

    color: bool
    translation: bool
    cutout: bool

    def __call__(self, samples: Samples, kind: str, draw: Draw) -> Samples:
        """Implement `View`: every row has its own random numbers."""
        x = single(samples.images)
        if self.color:
            x = recolored(x, draw.uniform(f"augment color {kind}", 3))
        if self.translation:
            x = translated(x, draw.uniform(f"augment translation {kind}", 2))
        if self.cutout:
            x = cut_out(x, draw.uniform(f"augment cutout {kind}", 2))
        return Samples(x, samples.labels)


def recolored(x: Tensor, u: Tensor) -> Tensor:
    """Return images [n, C, H, W] with another brightness, saturation and contrast from uniform numbers [n, 3].

    Brightness adds a number in [-0.5, 0.5]; saturation scales the distance from a pixel's mean over channels by a
    number in [0, 2]; contrast scales the distance from the image's mean by a number in [0.5, 1.5].
    """
    brightness, saturation, contrast = u[:, :, None, None, None].unbind(1)
    x = x + brightness - 0.5
    gray = x.mean(1, keepdim=True)
    x = (x - gray) * (2 * saturation) + gray
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def translated(x: Tensor, u: Tensor) -> Tensor:
    """Return images [n, C, H, W] shifted by whole pixels, vacated pixels 0, from uniform numbers [n, 2]."""
    rows, columns = (
        offsets(u[:, axis], round(size * TRANSLATION)) + torch.arange(size, device=x.device)
        for axis, size in enumerate(x.shape[2:])
    )
    for axis, at in ((2, rows), (3, columns)):
        size = x.shape[axis]
        inside = ((at >= 0) & (at < size)).unflatten(1, (1, -1, 1) if axis == 2 else (1, 1, -1))
        index = at.clamp(0, size - 1).unflatten(1, (1, -1, 1) if axis == 2 else (1, 1, -1))
        x = x.gather(axis, index.expand_as(x)) * inside
    return x


def offsets(u: Tensor, largest: int) -> Tensor:
    """Return whole numbers from -`largest` to `largest`, all equally likely, int64 [n, 1], from uniform numbers [n]."""
    return (u * (2 * largest + 1)).floor().long().unsqueeze(1) - largest


def cut_out(x: Tensor, u: Tensor) -> Tensor:
    """Return images [n, C, H, W] with a square set to 0, its centre anywhere, from uniform numbers [n, 2]."""
    outside = []
    for axis, size in enumerate(x.shape[2:]):
        side = round(size * CUTOUT)
        first = (u[:, axis : axis + 1] * (size + (1 - side % 2))).floor() - side // 2
        pixels = torch.arange(size, device=x.device)
        outside.append((pixels < first) | (pixels >= first + side))
    keep = outside[0][:, None, :, None] | outside[1][:, None, None, :]
    return x * keep
