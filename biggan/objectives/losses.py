"""Adversarial losses of both networks: hinge, and the non-saturating logistic loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Loss(NamedTuple):
    """The losses of both networks as functions of logits [n]."""

    discriminator: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(real logits, fake logits) -> the two terms of D's loss, each a mean >= 0."""
    generator: Callable[[Tensor], Tensor]
    """Fake logits -> G's loss, a mean."""


def d_hinge(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of relu(1 - real) and relu(1 + fake) (Lim & Ye 2017; SAGAN, Zhang et al. 2019, equation 4)."""
    return F.relu(1 - real_logits).mean(), F.relu(1 + fake_logits).mean()


def g_hinge(fake_logits: Tensor) -> Tensor:
    """Return minus the mean logit of the generator's images (SAGAN, equation 5)."""
    return -fake_logits.mean()


def d_logistic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of -log sigmoid(real) and -log(1 - sigmoid(fake)) (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


def g_non_saturating(fake_logits: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(fake) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


HINGE = Loss(d_hinge, g_hinge)
NON_SATURATING = Loss(d_logistic, g_non_saturating)
