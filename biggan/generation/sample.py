"""Images from a generator: truncated latents, keyed per image, in batches of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biggan.training.latents import keyed_generator


def truncated_normal(shape: tuple[int, ...], truncation: float | None, random: torch.Generator) -> Tensor:
    """N(0, 1) with values beyond +-`truncation` drawn again (Brock et al. 2018, section 3.1); None: as is."""
    z = torch.randn(shape, generator=random)
    if truncation is None:
        return z
    assert truncation > 0, "truncation is a positive threshold"
    while (outside := z.abs() > truncation).any():
        z[outside] = torch.randn(int(outside.sum()), generator=random)
    return z


def draw_latents(count: int, z_dim: int, truncation: float | None, seed: int) -> Tensor:
    """[count, z_dim]; row k depends on (seed, k) alone, so an image is the same in any batch."""
    rows = [truncated_normal((z_dim,), truncation, keyed_generator("sample", seed, k)) for k in range(count)]
    return torch.stack(rows)


@torch.no_grad()
def generate(
    generator: nn.Module, z: Tensor, y: Tensor, device: torch.device, batch_size: int = 64
) -> NDArray[np.uint8]:
    """Images uint8 [N, R, R, 3] of latents [N, z_dim] and labels [N]; the generator must be in eval mode."""
    assert not generator.training, "a generator in training mode would use and move batch statistics"
    images = []
    for z_part, y_part in zip(z.split(batch_size), y.split(batch_size), strict=True):
        x = generator(z_part.to(device), y_part.to(device)).float()
        images.append(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu())
    return torch.cat(images).numpy()


def generate_rows(
    generator: nn.Module,
    classes: Sequence[int],
    per_class: int,
    truncation: float | None,
    seed: int,
    device: torch.device,
) -> NDArray[np.uint8]:
    """uint8 [classes, per_class, R, R, 3], one class per row."""
    z = draw_latents(len(classes) * per_class, int(generator.z_dim), truncation, seed)  # type: ignore[arg-type]
    y = torch.tensor(classes).repeat_interleave(per_class)
    images = generate(generator, z, y, device)
    return images.reshape(len(classes), per_class, *images.shape[1:])
