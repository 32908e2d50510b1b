"""The GAN being trained: two networks with their engines, and the EMA generator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from biggan.distributed.engine import Engine

Stats = dict[str, Tensor]
"""Statistics of a step by name: scalars on the device."""


class Ema:
    """The EMA generator: an exponential moving average of the generator's parameters (Brock et al. 2018, section 3;
    Karras et al. 2018).

    Only parameters are averaged. Buffers are copied: the average of two unit vectors `u` has no unit norm, and
    BatchNorm's running statistics are averages already. Create it when the generator is on its device and in its
    memory format: an EMA that holds storage which training no longer uses would never learn.
    """

    def __init__(self, generator: nn.Module, decay: float, start_step: int):
        self.decay, self.start_step = decay, start_step
        self.module = copy.deepcopy(generator).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int, veto: Tensor) -> None:
        """Move toward `generator` after G step `step` (the first is 1), unless the scalar `veto` is 1."""
        decay = self.decay if step >= self.start_step else 0.0
        averages: list[Tensor] = list(self.module.parameters())
        parameters: list[Tensor] = list(generator.parameters())
        weight = (1 - decay) * (1 - veto)
        torch._foreach_lerp_(averages, parameters, [weight] * len(averages))
        for buffer, new in zip(self.module.buffers(), generator.buffers(), strict=True):
            buffer.copy_(new)


@dataclass
class Gan:
    """Both networks in their engines, the EMA generator, and what techniques keep between steps."""

    generator: Engine
    discriminator: Engine
    ema: Ema
    techniques: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """Modules with buffers, equal on every process, by the name of the technique. Checkpoints hold them."""
    extension: Mapping[str, Any] = field(default_factory=dict)
    """Parts from a researcher's own files, by import path."""
