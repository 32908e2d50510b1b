"""The averaged generator (Brock et al. 2018, section 3; Karras et al. 2018)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biggan.distributed.engine import Engine

Stats = dict[str, Tensor]


class Ema:
    """A second generator whose parameters are a running average of the first's.

    Only parameters are averaged. Buffers are copied: an average of two unit vectors `u` is no unit vector,
    and BatchNorm's running statistics are averages already. Make it once the generator is on its device and
    in its memory format: averaging storage that training no longer uses would never learn.
    """

    def __init__(self, generator: nn.Module, decay: float, start_step: int):
        self.decay, self.start_step = decay, start_step
        self.module = copy.deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int, veto: Tensor) -> None:
        """Move toward `generator` as it is after G step `step` (the first is 1), unless `veto`, 0 or 1, is 1."""
        decay = self.decay if step >= self.start_step else 0.0
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(generator.parameters())
        weight = (1 - decay) * (1 - veto)
        torch._foreach_lerp_(mine, theirs, [weight] * len(mine))
        for buffer, new in zip(self.module.buffers(), generator.buffers(), strict=True):
            buffer.copy_(new)


@dataclass
class Gan:
    """The two networks with what trains each, and the averaged generator."""

    generator: Engine
    discriminator: Engine
    ema: Ema
