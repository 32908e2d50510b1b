"""The part of the last finite state that a veto does not keep: data position, BatchNorm statistics, power iteration.

A veto keeps non-finite updates away from the weights, but the host learns of it only at the next logged step. Until
then the loop still reads batches, and forward passes still move buffers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from biggan.data.stream import Cursor
from biggan.gan import Gan


class Position(NamedTuple):
    """The data position between two steps."""

    images_seen: int
    cursors: list[Cursor]
    """Positions of this rank's streams."""


class LastFinite:
    """The buffers after the last finite step, and the data positions of the steps that may have been vetoed since."""

    def __init__(self, gan: Gan):
        self._gan = gan
        self._buffers: list[Tensor] = []
        self._positions: list[Position] = []

    @torch.no_grad()
    def remember(self, position: Position) -> None:
        """Record the state before a step. The device selects finite buffers by the veto, so the host does not wait."""
        self._positions.append(position)
        buffers = self._network_buffers()
        if not self._buffers:
            self._buffers = [buffer.clone() for buffer in buffers]
            return
        keep = self._gan.generator.guard.veto
        pairs = list(zip(self._buffers, buffers, strict=True))
        floats = [(old, new) for old, new in pairs if old.is_floating_point()]
        for old, new in pairs:
            if not old.is_floating_point():  # counts and labels that a technique keeps
                old.copy_(torch.where(keep > 0, old, new))
        torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], [1 - keep] * len(floats))

    def forget_positions(self) -> None:
        """Drop the positions: the host has seen that every step up to here was finite."""
        self._positions.clear()

    @torch.no_grad()
    def restore(self, vetoed_steps: int) -> Position:
        """Restore the buffers; return the data position before the first of the last `vetoed_steps` steps."""
        torch._foreach_copy_(self._network_buffers(), self._buffers)
        ema, generator = self._gan.ema.module, self._gan.generator.module
        for buffer, value in zip(ema.buffers(), generator.buffers(), strict=True):
            buffer.copy_(value)
        return self._positions[-vetoed_steps]

    def _network_buffers(self) -> list[Tensor]:
        gan = self._gan
        return [*gan.generator.module.buffers(), *gan.discriminator.module.buffers(), *gan.techniques.buffers()]
