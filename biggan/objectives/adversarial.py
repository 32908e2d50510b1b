"""Adversarial losses of both networks, as functions of logits, and statistics of D's logits.

A new loss of logits is one function for each network here, an entry of LOSSES, and its name in `LossName`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from biggan.config.objective import LossName
from biggan.draws import Draw
from biggan.objectives.passes import Pass
from biggan.objectives.seams import Adversarial


@dataclass(frozen=True)
class LogitLoss(Adversarial):
    """The losses of both networks as functions of logits [n], real and fake apart."""

    d_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(real logits, fake logits) -> the two terms of D's loss, each a mean."""
    g_loss: Callable[[Tensor], Tensor]
    """Fake logits -> G's loss, a mean."""
    level: float | None

    def discriminator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        real, fake = self.d_loss(judged.real.logits, judged.fake.logits)
        return {"d_loss_real": real, "d_loss_fake": fake}

    def generator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        return {"g_loss": self.g_loss(judged.fake.logits)}


def d_hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of relu(1 - real) and relu(1 + fake) (Lim & Ye 2017; SAGAN, Zhang et al. 2019, equation 4)."""
    return F.relu(1 - real).mean(), F.relu(1 + fake).mean()


def g_linear(fake: Tensor) -> Tensor:
    """Return minus the mean logit of the generator's images (SAGAN, equation 5; Arjovsky et al. 2017, algorithm 1)."""
    return -fake.mean()


def d_logistic(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of -log sigmoid(real) and -log(1 - sigmoid(fake)) (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-real).mean(), F.softplus(fake).mean()


def g_non_saturating(fake: Tensor) -> Tensor:
    """Return the mean of -log sigmoid(fake) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def g_minimax(fake: Tensor) -> Tensor:
    """Return the mean of log(1 - sigmoid(fake)) (Goodfellow et al. 2014, equation 1). It saturates when D wins."""
    return -F.softplus(fake).mean()


def d_least_squares(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of (real - 1)^2 / 2 and fake^2 / 2 (Mao et al. 2017, equation 9)."""
    return (real - 1).square().mean() / 2, fake.square().mean() / 2


def g_least_squares(fake: Tensor) -> Tensor:
    """Return the mean of (fake - 1)^2 / 2 (Mao et al. 2017, equation 9)."""
    return (fake - 1).square().mean() / 2


def d_wasserstein(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return minus the mean real logit and the mean fake logit: minus the estimated distance (Arjovsky et al. 2017)."""
    return -real.mean(), fake.mean()


class RelativisticAverage(Adversarial):
    """Logistic losses of each logit relative to the mean logit of the other kind (Jolicoeur-Martineau 2018, RaSGAN).

    The means cover the micro-batch of all processes.
    """

    needs_real = True

    def discriminator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        real, fake = self._relative(judged)
        return {"d_loss_real": F.softplus(-real).mean(), "d_loss_fake": F.softplus(fake).mean()}

    def generator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`: D's loss with the two kinds exchanged."""
        real, fake = self._relative(judged)
        return {"g_loss": F.softplus(real).mean() + F.softplus(-fake).mean()}

    @staticmethod
    def _relative(judged: Pass) -> tuple[Tensor, Tensor]:
        real, fake, mean = judged.real.logits, judged.fake.logits, judged.draw.global_mean
        return real - mean(fake), fake - mean(real)


class RelativisticPaired(Adversarial):
    """Logistic loss of the difference of a real and a fake logit of one label (Jolicoeur-Martineau 2018, RSGAN;
    R3GAN, Huang et al. 2024, equation 2)."""

    paired = True
    needs_real = True

    def discriminator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        return {"d_loss": F.softplus(judged.fake.logits - judged.real.logits).mean()}

    def generator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        return {"g_loss": F.softplus(judged.real.logits - judged.fake.logits).mean()}


@dataclass(frozen=True)
class LabelTargets:
    """Targets of the logistic and least-squares losses in place of 1 for real and 0 for fake images.

    One-sided smoothing is `real=0.9` (Salimans et al. 2016, section 3.4). Only D's loss uses the targets.
    """

    real: float
    fake: float
    noise: float
    """Half the width of uniform noise added to each target."""
    flip: float
    """Probability that a row has the other kind's target."""

    def for_rows(self, kind: str, draw: Draw) -> Tensor:
        """Return one target per row, float32 [n]."""
        mine, other = (self.real, self.fake) if kind == "real" else (self.fake, self.real)
        flipped = draw.uniform(f"label flip {kind}") < self.flip
        return torch.where(flipped, other, mine) + self.noise * (2 * draw.uniform(f"label noise {kind}") - 1)


@dataclass(frozen=True)
class TargetLoss(LogitLoss):
    """A `LogitLoss` whose D learns `targets`: `row_loss` maps (logits, targets) [n] to losses [n]."""

    row_loss: Callable[[Tensor, Tensor], Tensor] = F.binary_cross_entropy_with_logits
    targets: LabelTargets = LabelTargets(1.0, 0.0, 0.0, 0.0)

    def discriminator(self, judged: Pass) -> dict[str, Tensor]:
        """Implement `Adversarial`."""
        return {
            f"d_loss_{kind}": self.row_loss(rows.logits, self.targets.for_rows(kind, judged.draw)).mean()
            for kind, rows in (("real", judged.real), ("fake", judged.fake))
        }


def logistic_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of sigmoid(logits) to `targets`, [n]."""
    return F.softplus(logits) - targets * logits


def least_squares_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (logits - targets)^2 / 2, [n]."""
    return (logits - targets).square() / 2


HINGE = LogitLoss(d_hinge, g_linear, level=0.0)
LOSSES: dict[LossName, Adversarial] = {
    "hinge": HINGE,
    "non_saturating": LogitLoss(d_logistic, g_non_saturating, level=0.0),
    "minimax": LogitLoss(d_logistic, g_minimax, level=0.0),
    "least_squares": LogitLoss(d_least_squares, g_least_squares, level=0.5),
    "wasserstein": LogitLoss(d_wasserstein, g_linear, level=None),
    "relativistic_average": RelativisticAverage(),
    "relativistic_paired": RelativisticPaired(),
}


@torch.no_grad()
def logit_statistics(judged: Pass, level: float | None) -> dict[str, Tensor]:
    """Return statistics of D's logits: means, means of squares, and the share of rows on the right side.

    All are means over a batch, so micro-batches, updates, steps and processes of equal size may be averaged. The spread
    of the logits then is sqrt(d_logit_real_square - d_logit_real^2), and likewise for fake. Without a `level` between
    real and fake, the share is that of pairs with D(real) > D(fake).
    """
    real, fake = judged.real.logits, judged.fake.logits
    means = {
        "d_logit_real": real.mean(),
        "d_logit_fake": fake.mean(),
        "d_logit_real_square": real.square().mean(),
        "d_logit_fake_square": fake.square().mean(),
    }
    if level is None:
        return means | {"d_accuracy_pairs": (real > fake).float().mean()}
    return means | {
        "d_accuracy_real": (real > level).float().mean(),
        "d_accuracy_fake": (fake < level).float().mean(),
    }
