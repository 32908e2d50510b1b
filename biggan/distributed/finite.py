"""Guard against non-finite updates that never synchronizes with the device."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Flags on the device for non-finite losses and gradients, and for the parameters where they occurred first.

    Both optimizers check it before each update. From the first non-finite gradient on it vetoes all updates, so the
    weights stay finite until the loop reads `non_finite_parameters` at a logging step.
    """

    def __init__(self, device: torch.device):
        self.veto = torch.zeros((), device=device)
        """1 after any non-finite gradient, else 0; fused optimizers take it as `found_inf`."""
        self.vetoed_steps = torch.zeros((), device=device)
        """Number of G steps since then, including that step."""
        self._first: dict[tuple[str, ...], Tensor] = {}

    def inspect(self, names: tuple[str, ...], norms: Tensor) -> Tensor:
        """Set the veto if any of the gradient norms (one per name) is non-finite; return the total norm."""
        non_finite = ~norms.isfinite()
        first = self._first.setdefault(names, torch.zeros_like(non_finite))
        first |= non_finite & (self.veto == 0)
        torch.maximum(self.veto, non_finite.any().to(self.veto.dtype), out=self.veto)
        return norms.norm()

    def count_step(self) -> None:
        """Count a vetoed step; call it once per G step."""
        self.vetoed_steps += self.veto

    def clear(self) -> None:
        """Reset all flags, after the training state has been replaced."""
        self.veto.zero_()
        self.vetoed_steps.zero_()
        self._first.clear()

    def non_finite_parameters(self) -> list[str]:
        """Return the names of the parameters with the first non-finite gradients. Synchronizes with the device."""
        return [
            name for names, first in self._first.items() for name, bad in zip(names, first.tolist(), strict=True) if bad
        ]


def poison_if_non_finite(loss: Tensor) -> Tensor:
    """Return `loss`, or NaN with NaN gradients if it is non-finite.

    A non-finite loss can have finite gradients. NaN gradients reach every process through the gradient reduction, so no
    extra collective is needed.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
