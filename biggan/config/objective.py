"""The `objective` section: losses, penalties, labels and augmentation. One key switches each one on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from biggan.config.schedule import Strength
from biggan.config.sections import Fraction, Positive, Section

LossName = Literal[
    "hinge",
    "non_saturating",
    "minimax",
    "least_squares",
    "wasserstein",
    "relativistic_average",
    "relativistic_paired",
]
LOSSES_WITH_TARGETS = ("non_saturating", "minimax", "least_squares")
"""Losses whose D learns a target for each row."""


class LabelsConfig(Section):
    """Targets that D learns, for the logistic and least-squares losses."""

    real: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Target of real images. 0.9 is one-sided label smoothing (Salimans et al. 2016)."""
    fake: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Target of fake images."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Half the width of the uniform noise that is added to every target."""
    flip: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a row gets the other kind's target."""


class ZeroCenteredPenaltyConfig(Section):
    """A zero-centred gradient penalty: gamma / 2 * E||grad_x D(x)||^2 (Mescheder et al. 2018)."""

    gamma: Strength = 0.0
    """Strength gamma, at least 0."""
    every_d_steps: Positive = 1
    """Apply it every `n` discriminator steps, `n` times as strong (lazy regularization; Karras et al. 2019,
    StyleGAN2)."""


class R1Config(ZeroCenteredPenaltyConfig):
    """R1: the zero-centred gradient penalty on real images (Mescheder et al. 2018)."""


class R2Config(ZeroCenteredPenaltyConfig):
    """R2: the zero-centred gradient penalty on fake images (Mescheder et al. 2018)."""


class GradientPenaltyConfig(Section):
    """WGAN-GP's penalty between real and fake images: weight * E(||grad_x D(x)|| - target)^2 (Gulrajani et al. 2017).
    Fake images then carry the labels of the real images they are interpolated with."""

    weight: Strength = 0.0
    """Strength lambda, at least 0; 10 in the paper."""
    target: Annotated[float, Field(ge=0)] = 1.0
    """Norm that the penalty pulls to; 0 makes it zero-centred."""
    every_d_steps: Positive = 1
    """Apply it every `n` discriminator steps, `n` times as strong."""


class LeCamConfig(Section):
    """LeCam regularization of D's logits toward moving averages of the other kind's (Tseng et al. 2021)."""

    weight: Strength = 0.0
    """Strength, at least 0; 0.3 in the paper's CIFAR experiments."""
    decay: Fraction = 0.99
    """Decay of the moving averages of D's logits, per micro-batch of D, in [0, 1)."""


class SpectralConfig(Section):
    """Limit of sigma_0, the largest singular value of raw weights (Brock et al. 2018, section 4.1)."""

    penalty: Strength = 0.0
    """Strength of the penalty (sigma_0 - target)^2 on raw weights whose sigma_0 is above the target."""
    clamp: bool = False
    """After each update, reduce sigma_0 of raw weights to the target: W - max(0, sigma_0 - target) u_0 v_0^T."""
    target: Annotated[float, Field(ge=0)] = 0.0
    """Target of the penalty and the clamp; 0 uses `ratio` * stopgrad(sigma_1)."""
    ratio: Annotated[float, Field(ge=1)] = 2.0
    """Target as a multiple of each layer's sigma_1, at least 1. Weights of one row or column have no sigma_1 and are
    not changed."""
    layers: tuple[str, ...] = ("G.linear",)
    """Layers that the penalty and the clamp apply to: names in which `*` matches anything (`G.*`, `D.blocks.0.*`). Each
    pattern must match a weight."""


class ObjectiveConfig(Section):
    """Losses of both networks and the terms added to them. docs/interventions.md and docs/extending.md have more."""

    loss: LossName = "hinge"
    """Adversarial loss: `hinge`; `non_saturating` and `minimax`, the logistic losses of Goodfellow et al. 2014;
    `least_squares` (Mao et al. 2017); `wasserstein` (Arjovsky et al. 2017); `relativistic_average` and
    `relativistic_paired` (Jolicoeur-Martineau 2018)."""
    labels: LabelsConfig = LabelsConfig()
    r1: R1Config = R1Config()
    r2: R2Config = R2Config()
    gradient_penalty: GradientPenaltyConfig = GradientPenaltyConfig()
    lecam: LeCamConfig = LeCamConfig()
    orthogonal: Strength = 0.0
    """Strength beta of the paper's R(W) = beta * ||W W^T * (1 - I)||_F^2, with its exact gradient, on the generator's
    raw weights except the shared embedding. (The published PyTorch code applies half of that gradient: its strength s
    corresponds to beta = s / 2 here.)"""
    spectral: SpectralConfig = SpectralConfig()
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """Differentiable augmentation of what D sees, real and fake, in both networks' turns (Zhao et al. 2020,
    DiffAugment): any of `color`, `translation`, `cutout`."""

    @model_validator(mode="after")
    def _check_combinations(self) -> ObjectiveConfig:
        if self.labels != LabelsConfig() and self.loss not in LOSSES_WITH_TARGETS:
            raise ValueError(
                f"objective.labels: {self.loss} has no targets; remove the key, or set objective.loss to "
                f"{', '.join(LOSSES_WITH_TARGETS)}"
            )
        if len(set(self.augment)) != len(self.augment):
            raise ValueError(f"objective.augment: {list(self.augment)} contains a name twice; remove one")
        return self
