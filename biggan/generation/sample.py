"""Images from a generator. An image does not depend on how many are requested, or on the number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator

CHUNK_IMAGES = 32
"""Batch size of every forward pass, padded if need be. The kernels that a library chooses, and so the last bits of an
image, depend on the batch's shape."""


@torch.no_grad()
def make_chunk(generator: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    """Return images uint8 [n, R, R, 3], on the device, from n <= CHUNK_IMAGES latents z [n, z_dim] on it.

    `y` holds labels int64 [n], or class embeddings float [n, class_embedding_dim] (biggan.generation.interpolation).
    The generator must be in evaluation mode. A grey generator's images have three equal channels.
    """
    assert not generator.training, "a generator in training mode would use and move batch statistics"
    forward = generator.from_condition if y.is_floating_point() else generator
    images = forward(padded(z), padded(y))[: len(z)].float().expand(-1, 3, -1, -1)  # type: ignore[operator]
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def generate(generator: nn.Module, z: Tensor, y: Tensor, device: torch.device) -> NDArray[np.uint8]:
    """Return images uint8 [N, R, R, 3] from latents z [N, z_dim] and labels y [N] or class embeddings y [N, E].

    The generator must be in evaluation mode and on `device`; z and y may be elsewhere.
    """
    images = [
        make_chunk(generator, z_part.to(device), y_part.to(device)).cpu()
        for z_part, y_part in zip(z.split(CHUNK_IMAGES), y.split(CHUNK_IMAGES), strict=True)
    ]
    return torch.cat(images).numpy()


def padded(rows: Tensor) -> Tensor:
    """Pad [n, ...] to [CHUNK_IMAGES, ...] with copies of the first row."""
    return torch.cat([rows, rows[:1].expand(CHUNK_IMAGES - len(rows), *rows.shape[1:])])


def generate_rows(
    generator: Generator,
    classes: Sequence[int] | Tensor,
    per_class: int,
    truncation: float | None,
    seed: int,
    device: torch.device,
) -> NDArray[np.uint8]:
    """Return images uint8 [rows, per_class, R, R, 3]: one row for each class number or class embedding [rows, E].

    Row r, column c is image c * rows + r of the seed, so a wider grid starts with the columns of a narrower one.
    """
    y = torch.as_tensor(classes)
    z = draw_latents(range(len(y) * per_class), generator, truncation, seed)
    images = generate(generator, z, torch.cat([y] * per_class), device)
    return images.reshape(per_class, len(y), *images.shape[1:]).swapaxes(0, 1)
