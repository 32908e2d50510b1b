"""Everything random in a training step, drawn for the global batch: the same on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from biggan.distributed.collectives import all_gather_rows, mean_over_processes_with_gradient
from biggan.random import keyed_generator


@dataclass(frozen=True)
class Draw:
    """The random numbers of one micro-batch: this rank's slice of those of the global micro-batch.

    Each name gives an independent stream of numbers, so a technique that is switched on changes no other draw.
    """

    z: Tensor
    """Latents, float32 [n, z_dim], N(0, I)."""
    y: Tensor
    """Labels, int64 [n], uniform over classes."""
    last: bool
    """True for the last micro-batch of an update."""
    key: tuple[int | str, ...]
    """(seed, step, update index, micro-batch)."""
    size: int
    """Number of rows of the global micro-batch."""
    local: slice
    """This rank's rows of the global micro-batch."""
    group: ProcessGroup | None

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Return numbers in [0, 1), float32 [n, *shape] on the device."""
        return self._local(torch.rand(self.size, *shape, generator=keyed_generator(name, *self.key)))

    def normal(self, name: str, *shape: int) -> Tensor:
        """Return numbers from N(0, 1), float32 [n, *shape] on the device."""
        return self._local(torch.randn(self.size, *shape, generator=keyed_generator(name, *self.key)))

    def global_mean(self, x: Tensor) -> Tensor:
        """Return the mean of `x` [n, ...] over the rows of all processes, [...]. Collective; gradients flow through."""
        return mean_over_processes_with_gradient(x.mean(0), self.group)

    def global_rows(self, x: Tensor) -> Tensor:
        """Return the rows of `x` [n, ...] of all processes, in the order of the global micro-batch. Collective.

        Gradients do not flow through it. State that is made of global rows is equal on every process.
        """
        return x.detach() if self.group is None else all_gather_rows(x.detach().contiguous(), self.group).flatten(0, 1)

    def _local(self, numbers: Tensor) -> Tensor:
        return numbers[self.local].to(self.z.device, non_blocking=True)


@dataclass(frozen=True)
class Draws:
    """The draws of every step, keyed by (seed, step, update index, micro-batch) and sliced by rank."""

    seed: int
    z_dim: int
    classes: int
    micro_batch_size: int
    accumulation: int
    rank: int
    world_size: int
    device: torch.device
    group: ProcessGroup | None = None

    def __call__(self, step: int, update_index: int) -> Iterator[Draw]:
        """Yield the draw of each micro-batch of one update.

        `update_index` counts the updates of a step: 0 to d_steps - 1 are D's, d_steps is G's. The key holds the step
        and the update, so a draw does not depend on how many updates were made before.
        """
        rows = self.micro_batch_size // self.world_size
        local = slice(self.rank * rows, (self.rank + 1) * rows)
        for micro in range(self.accumulation):
            key = (self.seed, step, update_index, micro)
            random = keyed_generator("latents", *key)
            z = torch.randn(self.micro_batch_size, self.z_dim, generator=random)
            y = torch.randint(self.classes, (self.micro_batch_size,), generator=random)
            yield Draw(
                z[local].to(self.device, non_blocking=True),
                y[local].to(self.device, non_blocking=True),
                last=micro == self.accumulation - 1,
                key=key,
                size=self.micro_batch_size,
                local=local,
                group=self.group,
            )
