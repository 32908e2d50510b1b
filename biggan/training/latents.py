"""The latents of a step, drawn for the global batch: the same on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.random import keyed_generator


@dataclass(frozen=True)
class Latents:
    """z ~ N(0, I) and y uniform over classes, keyed by (seed, step, use, micro-batch), sliced by rank."""

    seed: int
    z_dim: int
    classes: int
    micro_batch_size: int
    accumulation: int
    rank: int
    world_size: int
    device: torch.device

    def __call__(self, step: int, use: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's (z [n, z_dim] float32, y [n] int64) of each micro-batch of one update.

        `use` counts the updates of a step: 0 to d_steps - 1 are the discriminator's, d_steps the generator's.
        """
        share = self.micro_batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        for micro in range(self.accumulation):
            random = keyed_generator("latents", self.seed, step, use, micro)
            z = torch.randn(self.micro_batch_size, self.z_dim, generator=random)
            y = torch.randint(self.classes, (self.micro_batch_size,), generator=random)
            yield z[mine].to(self.device, non_blocking=True), y[mine].to(self.device, non_blocking=True)
