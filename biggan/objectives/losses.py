"""The losses of both networks: hinge, and the non-saturating logistic loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Loss(NamedTuple):
    """What each network minimises, as functions of logits [n]."""

    discriminator: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(real logits, fake logits) -> its two terms, each a mean >= 0."""
    generator: Callable[[Tensor], Tensor]
    """Fake logits -> a mean."""


def d_hinge(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Real logits below 1 and fake ones above -1 cost (Lim & Ye 2017; equation 4 of SAGAN, Zhang et al. 2019)."""
    return F.relu(1 - real_logits).mean(), F.relu(1 + fake_logits).mean()


def g_hinge(fake_logits: Tensor) -> Tensor:
    """Minus the mean logit of the generator's images (equation 5 of SAGAN)."""
    return -fake_logits.mean()


def d_logistic(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigmoid(real) and -log(1 - sigmoid(fake)) (equation 1 of Goodfellow et al. 2014)."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


def g_non_saturating(fake_logits: Tensor) -> Tensor:
    """-log sigmoid(fake) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


HINGE = Loss(d_hinge, g_hinge)
NON_SATURATING = Loss(d_logistic, g_non_saturating)
