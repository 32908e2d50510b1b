"""Statistics of D's losses and logits in one update."""

from __future__ import annotations

import torch
from torch import Tensor

D_STATISTICS = (
    "d_loss_real",
    "d_loss_fake",
    "d_logit_real",
    "d_logit_fake",
    "d_logit_real_square",
    "d_logit_fake_square",
    "d_accuracy_real",
    "d_accuracy_fake",
)
"""Means over a batch; micro-batches, steps and processes of equal size may be averaged. The spread of the logits (their
standard deviation) then is sqrt(d_logit_real_square - d_logit_real^2), and likewise for fake."""


@torch.no_grad()
def d_statistics(loss_real: Tensor, loss_fake: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Return D_STATISTICS as one vector, from the losses and the logits [n].

    Accuracy is the fraction of real logits above 0, or of fake logits below 0.
    """
    shares = (real > 0).float().mean(), (fake < 0).float().mean()
    squares = real.square().mean(), fake.square().mean()
    return torch.stack([loss_real, loss_fake, real.mean(), fake.mean(), *squares, *shares])
