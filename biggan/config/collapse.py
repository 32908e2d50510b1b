"""Keys against collapse: seeing it come, and what is done then."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from biggan.config.section import NonNegative, Positive, Section


class InterventionConfig(Section):
    """What is done against a collapse, from the step on at which a run or a child run starts, or a rollback goes
    on. As it stands, nothing. docs/interventions.md says what the literature reports of each."""

    g_lr_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Multiplies the generator's learning rate; at each further rollback again."""
    d_lr_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Multiplies the discriminator's learning rate; at each further rollback again."""
    d_steps: NonNegative = 0
    """Discriminator steps per generator step; 0 leaves `training.d_steps`."""
    r1_gamma: Annotated[float, Field(ge=0)] = 0.0
    """R1: gamma / 2 * E||grad_x D(x)||^2 on real images (Mescheder et al. 2018)."""
    r1_every_d_steps: Positive = 1
    """Apply R1 in every so many discriminator steps, so many times as strong (lazy; Karras et al. 2019, StyleGAN2)."""
    orthogonal: Annotated[float, Field(ge=0)] = 0.0
    """Added to `regularization.orthogonal`."""
    spectral_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Strength of the penalty (sigma_0 - target)^2 on raw weights whose sigma_0 is above the target."""
    spectral_clamp: bool = False
    """After each update, pull sigma_0 of raw weights down to the target: W - max(0, sigma_0 - target) u_0 v_0^T."""
    spectral_target: Annotated[float, Field(ge=0)] = 0.0
    """The target of both; 0 takes `spectral_ratio` * stopgrad(sigma_1)."""
    spectral_ratio: Annotated[float, Field(ge=1)] = 2.0
    """The target as a multiple of each layer's sigma_1. Weights of one row or column have none and are left alone."""
    spectral_layers: tuple[str, ...] = ("G.linear",)
    """The weights of both: layer names, `*` matches anything (`G.*`, `D.blocks.0.*`). Each must match a weight."""
    freeze_g_steps: NonNegative = 0
    """Leave the generator's weights alone for so many generator steps (the paper's diagnostic)."""
    freeze_d_steps: NonNegative = 0
    """Leave the discriminator's weights alone for so many generator steps (the paper's diagnostic)."""

    @model_validator(mode="after")
    def _something_learns(self) -> InterventionConfig:
        if self.freeze_g_steps and self.freeze_d_steps:
            section = "rollback" if isinstance(self, RollbackConfig) else "intervention"
            raise ValueError(
                f"{section}.freeze_g_steps: with both networks frozen nothing learns; "
                f"set {section}.freeze_g_steps or {section}.freeze_d_steps to 0"
            )
        return self


class RollbackConfig(InterventionConfig):
    """What a rollback applies beside a new seed; what is left neutral here stays as `intervention` has it."""

    g_lr_factor: Annotated[float, Field(gt=0, le=100)] = 0.5
    """Multiplies the generator's learning rate, at each further rollback again. (Of all changes of learning rates,
    only this one delayed collapse in the paper.)"""


class CollapseConfig(Section):
    """Seeing a collapse come, and what follows. docs/collapse.md says why these numbers."""

    on_collapse: Literal["continue", "halt", "rollback"] = "halt"
    """At the verdict `collapsing` or `collapsed`: go on, stop with exit code 7, or go back to the last good checkpoint,
    apply `rollback.*` and walk another path. In each case the checkpoints from before are pinned. Non-finite gradients
    never go on."""
    max_rollbacks: NonNegative = 3
    """After so many rollbacks the next collapse halts the run."""
    spectrum_every_steps: Positive = 50
    """Cadence of the singular values of every weight."""
    quality_every_steps: Positive = 250
    """Cadence of what needs images of their own: diversity of a fixed batch, memorisation."""
    top_singular_values: Annotated[int, Field(ge=2, le=16)] = 3
    """Singular values tracked of each weight."""
    minimum_observations: Annotated[int, Field(ge=16)] = 30
    """Earlier changes of a signal that one must be compared with before it can be a witness."""
    patience_observations: Positive = 2
    """The newest observations that must all depart."""
    deviations: Annotated[float, Field(gt=0)] = 4.0
    """A change departs when it is so many robust standard deviations from a signal's usual ones."""
    agreeing_signals: Positive = 2
    """Kinds of signals that must depart together for `collapsing`; fewer warn."""
