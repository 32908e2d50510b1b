"""The latents of a step, drawn for the global batch: the same on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.random import keyed_generator


@dataclass(frozen=True)
class Latents:
    """z ~ N(0, I) and y uniform over classes, keyed by (seed, step, update_index, micro-batch), sliced by rank."""

    seed: int
    z_dim: int
    classes: int
    micro_batch_size: int
    accumulation: int
    rank: int
    world_size: int
    device: torch.device

    def __call__(self, step: int, update_index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's (z [n, z_dim] float32, y [n] int64) of each micro-batch of one update.

        `update_index` counts the updates of a step: 0 to d_steps - 1 are D's, d_steps is G's.
        """
        size = self.micro_batch_size // self.world_size
        local = slice(self.rank * size, (self.rank + 1) * size)
        for micro in range(self.accumulation):
            random = keyed_generator("latents", self.seed, step, update_index, micro)
            z = torch.randn(self.micro_batch_size, self.z_dim, generator=random)
            y = torch.randint(self.classes, (self.micro_batch_size,), generator=random)
            yield z[local].to(self.device, non_blocking=True), y[local].to(self.device, non_blocking=True)
