"""Keeps non-finite updates away from the weights without asking the device."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Remembers, on the device, whether a loss or gradient was ever non-finite, and in which layers first.

    Both optimizers ask it before each update; from the first non-finite gradient on it vetoes all updates,
    so the state stays the last finite one until the loop reads `culprits` at a logging step.
    """

    def __init__(self, device: torch.device):
        self.veto = torch.zeros((), device=device)
        """1 once anything was non-finite, else 0; fused optimizers take it as `found_inf`."""
        self.vetoed_steps = torch.zeros((), device=device)
        """G steps since then, that one included."""
        self._first: dict[tuple[str, ...], Tensor] = {}

    def inspect(self, names: tuple[str, ...], norms: Tensor) -> Tensor:
        """Look at the gradients' norms (one per name), raise the veto if any is not finite; return their total."""
        non_finite = ~norms.isfinite()
        first = self._first.setdefault(names, torch.zeros_like(non_finite))
        first |= non_finite & (self.veto == 0)
        torch.maximum(self.veto, non_finite.any().to(self.veto.dtype), out=self.veto)
        return norms.norm()

    def count_step(self) -> None:
        """Call once per G step."""
        self.vetoed_steps += self.veto

    def clear(self) -> None:
        """Forget it all: the state is another one."""
        self.veto.zero_()
        self.vetoed_steps.zero_()
        self._first.clear()

    def culprits(self) -> list[str]:
        """Names of the parameters whose gradient was first to be non-finite. Waits for the device."""
        return [
            name for names, first in self._first.items() for name, bad in zip(names, first.tolist(), strict=True) if bad
        ]


def poison_if_non_finite(loss: Tensor) -> Tensor:
    """`loss`, but NaN in value and in every gradient where it is not finite.

    A non-finite loss can have finite gradients; poisoned, it reaches every process with the reduction of
    gradients, so that all of them see it without a collective of its own.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
