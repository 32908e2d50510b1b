"""Sections for collapse: detection, interventions and rollback."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from biggan.config.sections import NonNegative, Positive, Section


class InterventionConfig(Section):
    """Measures against a collapse. They apply from the step at which a run or a child run starts, or at which a
    rollback resumes. The defaults change nothing. docs/interventions.md summarises what the literature reports."""

    g_lr_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Factor on the generator's learning rate, in (0, 100]; multiplied again at each further rollback."""
    d_lr_factor: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Factor on the discriminator's learning rate, in (0, 100]; multiplied again at each further rollback."""
    d_steps: NonNegative = 0
    """Discriminator steps per generator step; 0 keeps `training.d_steps`."""
    r1_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Strength of R1: gamma / 2 * E||grad_x D(x)||^2 on real images (Mescheder et al. 2018)."""
    r1_every_d_steps: Positive = 1
    """Apply R1 every `n` discriminator steps, `n` times as strong (lazy regularization; Karras et al. 2019,
    StyleGAN2)."""
    orthogonal: Annotated[float, Field(ge=0)] = 0.0
    """Added to `regularization.orthogonal`."""
    spectral_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Strength of the penalty (sigma_0 - target)^2 on raw weights whose sigma_0 is above the target."""
    spectral_clamp: bool = False
    """After each update, reduce sigma_0 of raw weights to the target: W - max(0, sigma_0 - target) u_0 v_0^T."""
    spectral_target: Annotated[float, Field(ge=0)] = 0.0
    """Target of the penalty and the clamp; 0 uses `spectral_ratio` * stopgrad(sigma_1)."""
    spectral_ratio: Annotated[float, Field(ge=1)] = 2.0
    """Target as a multiple of each layer's sigma_1, at least 1. Weights of one row or column have no sigma_1 and are
    not changed."""
    spectral_layers: tuple[str, ...] = ("G.linear",)
    """Layers that the penalty and the clamp apply to: names in which `*` matches anything (`G.*`, `D.blocks.0.*`). Each
    pattern must match a weight."""
    freeze_g_steps: NonNegative = 0
    """Generator steps for which the generator is frozen (the paper's diagnostic)."""
    freeze_d_steps: NonNegative = 0
    """Generator steps for which the discriminator is frozen (the paper's diagnostic)."""

    @model_validator(mode="after")
    def _check_freezes(self) -> InterventionConfig:
        if self.freeze_g_steps and self.freeze_d_steps:
            section = "rollback" if isinstance(self, RollbackConfig) else "intervention"
            raise ValueError(
                f"{section}.freeze_g_steps: both networks are frozen, so nothing is trained; "
                f"set {section}.freeze_g_steps or {section}.freeze_d_steps to 0"
            )
        return self


class RollbackConfig(InterventionConfig):
    """Interventions that a rollback applies in addition to a new seed. Keys at their neutral value keep the value of
    `intervention`."""

    g_lr_factor: Annotated[float, Field(gt=0, le=100)] = 0.5
    """Factor on the generator's learning rate, in (0, 100]; multiplied again at each further rollback. (Of all changes
    of learning rates, only this one delayed collapse in the paper.)"""


class CollapseConfig(Section):
    """Collapse detection and the reaction to it. docs/collapse.md gives the reasons for these defaults."""

    on_collapse: Literal["continue", "halt", "rollback"] = "halt"
    """Reaction to the verdict `collapsing` or `collapsed`: continue, stop with exit code 7, or go back to the last good
    checkpoint, apply `rollback.*` and continue on a new training trajectory. In each case earlier checkpoints are
    pinned. A run with non-finite gradients never continues."""
    max_rollbacks: NonNegative = 3
    """Maximum number of rollbacks; the next collapse stops the run."""
    spectrum_every_steps: Positive = 50
    """Measure the largest singular values of every weight every `n` generator steps."""
    quality_every_steps: Positive = 250
    """Measure the signals that need images (diversity of a fixed batch, memorisation) every `n` generator steps."""
    top_singular_values: Annotated[int, Field(ge=2, le=16)] = 3
    """Number of singular values measured per weight, 2 to 16."""
    minimum_observations: Annotated[int, Field(ge=16)] = 30
    """Minimum number of earlier changes of a signal that a change is compared with, at least 16. A signal with a
    shorter history does not count."""
    patience_observations: Positive = 2
    """Number of newest observations that must all depart."""
    deviations: Annotated[float, Field(gt=0)] = 4.0
    """Threshold of a departure: the change of a signal, in robust standard deviations of its earlier changes."""
    agreeing_signals: Positive = 2
    """Number of signal families that must depart together for `collapsing`; fewer give a warning."""
