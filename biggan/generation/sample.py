"""Images from a generator, each the same however many are asked for, and on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biggan.generation.latents import draw_latents

CHUNK_IMAGES = 32
"""Every image is made in a batch of so many, filled up if need be: the kernels that a library chooses, and so the last
bits of an image, depend on the batch's shape."""


@torch.no_grad()
def make_chunk(generator: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """uint8 [n, R, R, 3], on the device, of n <= CHUNK_IMAGES latents [n, z_dim] and labels [n] there; in eval mode."""
    assert not generator.training, "a generator in training mode would use and move batch statistics"
    images = generator(filled(z), filled(y))[: len(z)].float()
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def generate(generator: nn.Module, z: Tensor, y: Tensor, device: torch.device) -> NDArray[np.uint8]:
    """Images uint8 [N, R, R, 3] of latents [N, z_dim] and labels [N]; the generator must be in eval mode."""
    images = [
        make_chunk(generator, z_part.to(device), y_part.to(device)).cpu()
        for z_part, y_part in zip(z.split(CHUNK_IMAGES), y.split(CHUNK_IMAGES), strict=True)
    ]
    return torch.cat(images).numpy()


def filled(rows: Tensor) -> Tensor:
    """[n, ...] -> [CHUNK_IMAGES, ...]: the first row fills up what is missing."""
    return torch.cat([rows, rows[:1].expand(CHUNK_IMAGES - len(rows), *rows.shape[1:])])


def generate_rows(
    generator: nn.Module,
    classes: Sequence[int],
    per_class: int,
    truncation: float | None,
    seed: int,
    device: torch.device,
) -> NDArray[np.uint8]:
    """uint8 [classes, per_class, R, R, 3], one class per row."""
    z = draw_latents(range(len(classes) * per_class), int(generator.z_dim), truncation, seed)  # type: ignore[arg-type]
    y = torch.tensor(classes).repeat_interleave(per_class)
    images = generate(generator, z, y, device)
    return images.reshape(len(classes), per_class, *images.shape[1:])
