"""The hinge loss (Lim & Ye 2017; equation 4 and 5 of SAGAN, Zhang et al. 2019)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def d_hinge(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's two terms, each a mean >= 0: real logits below 1 and fake ones above -1 cost."""
    return F.relu(1 - real_logits).mean(), F.relu(1 + fake_logits).mean()


def g_hinge(fake_logits: Tensor) -> Tensor:
    """The generator's loss: minus the mean logit of its images."""
    return -fake_logits.mean()
