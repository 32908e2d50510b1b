"""The typed config tree: every key, its type, its default, and the conditions between keys.

The tree is frozen and strict: unknown keys and wrong types are refused (see `biggan.config.preset`).
"""

from __future__ import annotations

import json
import math

from pydantic import model_validator

from biggan.config.collapse import CollapseConfig
from biggan.config.extension import ExtensionConfig
from biggan.config.interventions import Changes, RollbackChanges
from biggan.config.model import ModelConfig
from biggan.config.objective import LabelsConfig, ObjectiveConfig
from biggan.config.schedule import values
from biggan.config.sections import (
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    EmaConfig,
    EvaluationConfig,
    InitConfig,
    OptimizerConfig,
    RunConfig,
    SamplesConfig,
    Section,
    TrackingConfig,
    TrainingConfig,
)
from biggan.config.yaml_text import dump_yaml
from biggan.errors import InputError


class Config(Section):
    """The resolved config of one run."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    init: InitConfig = InitConfig()
    training: TrainingConfig
    optimizer: OptimizerConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    extension: ExtensionConfig = ExtensionConfig()
    intervention: Changes = Changes({})
    """Other values for keys of `optimizer`, `objective`, `extension` and `training`, in force from the start of the run
    or child run until its end: `{optimizer.g_lr: x0.5}`. A child run may as well give the keys themselves."""
    collapse: CollapseConfig = CollapseConfig()
    rollback: RollbackChanges = RollbackChanges({})
    """Other values that a rollback puts in force in addition to a new seed; a factor multiplies again at each further
    one. `{optimizer.g_lr: x0.5}` is part of it unless that key is given: of all changes of learning rates, only this
    one delayed collapse in the paper."""
    ema: EmaConfig = EmaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def loss(self) -> str:
        """Name of the adversarial loss: the one of `extension`, else that of `objective`."""
        return self.extension.loss or self.objective.loss

    @property
    def micro_batch_size(self) -> int:
        """Number of images in one forward pass, over all processes."""
        return self.training.batch_size // self.training.accumulation

    @model_validator(mode="after")
    def _check_batches(self) -> Config:
        t, d = self.training, self.data
        if t.batch_size % t.accumulation:
            raise ValueError(
                f"training.accumulation: {t.accumulation} does not divide training.batch_size "
                f"{t.batch_size}; use {divisors_near(t.batch_size, t.accumulation)}"
            )
        if self.micro_batch_size % d.streams:
            raise ValueError(
                f"data.streams: {d.streams} does not divide the micro-batch of {self.micro_batch_size} images; "
                f"use {divisors_near(self.micro_batch_size, d.streams)}"
            )
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Config:
        o, m = self.objective, self.model
        if self.extension.loss and o.labels != LabelsConfig():
            raise ValueError("objective.labels: they have no effect with extension.loss; remove one of the two")
        gradient_penalties = {
            "gradient_penalty.weight": o.gradient_penalty.weight,
            "r1.gamma": o.r1.gamma,
            "r2.gamma": o.r2.gamma,
        }
        switched_on = [key for key, weight in gradient_penalties.items() if any(values(weight))]
        if switched_on and m.d_normalization == "batch":
            raise ValueError(
                f"objective.{switched_on[0]}: with model.d_normalization=batch a logit depends on other images, so "
                f"there is no gradient of one image's; set model.d_normalization=layer or none"
            )
        if "gradient_penalty.weight" in switched_on and m.d_spectral_norm:
            raise ValueError(
                "objective.gradient_penalty.weight: it and spectral normalization both bound D's gradient, each to "
                "its own norm; set model.d_spectral_norm=false, or remove the penalty"
            )
        if o.loss == "wasserstein" and not m.d_spectral_norm and "gradient_penalty.weight" not in switched_on:
            raise ValueError(
                "objective.loss: wasserstein needs a D whose gradient is bounded; set "
                "objective.gradient_penalty.weight=10, or model.d_spectral_norm=true"
            )
        return self

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError unless this run's batches divide evenly over `world_size` processes."""
        if self.micro_batch_size % world_size:
            lower = self.training.batch_size - self.training.batch_size % (world_size * self.training.accumulation)
            upper = lower + world_size * self.training.accumulation
            raise InputError(
                f"training.batch_size: {self.training.batch_size} does not divide evenly over {world_size} "
                f"processes with training.accumulation={self.training.accumulation}; "
                f"use {' or '.join(str(b) for b in (lower, upper) if b)}"
            )
        if self.data.streams % world_size:
            valid = [s for s in divisors(self.micro_batch_size) if s % world_size == 0]
            raise InputError(
                f"data.streams: {self.data.streams} streams do not divide evenly over {world_size} processes; "
                f"use one of {', '.join(map(str, valid))}"
            )
        group = self.distributed.batchnorm_group_size
        if group and world_size % group:
            raise InputError(
                f"distributed.batchnorm_group_size: {group} does not divide {world_size} processes; "
                f"use {divisors_near(world_size, group)}"
            )

    def with_precision(self, bfloat16: bool) -> Config:
        """Return the config with `training.precision: auto` replaced: `bfloat16` if the argument is true, else
        `float32`."""
        if self.training.precision != "auto":
            return self
        precision = "bfloat16" if bfloat16 else "float32"
        return self.model_copy(update={"training": self.training.model_copy(update={"precision": precision})})

    def notes(self) -> list[str]:
        """Return one line for each value that was adjusted automatically."""
        m = self.model
        if m.effective_z_dim == m.z_dim:
            return []
        return [
            f"model.z_dim: {m.z_dim} is rounded down to {m.effective_z_dim}, "
            f"{m.latent_chunks} chunks of {m.effective_z_dim // m.latent_chunks}"
        ]

    def to_yaml(self) -> str:
        """Return the resolved tree as YAML; `resolve` reads it back to an equal Config."""
        return dump_yaml(json.loads(self.model_dump_json()))


def divisors(n: int) -> list[int]:
    """Return every divisor of n, ascending."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return small + [n // k for k in reversed(small) if k * k != n]


def divisors_near(n: int, value: int) -> str:
    """Return the nearest divisors of n below and above `value`, as text: "2 or 4"."""
    below = [k for k in divisors(n) if k < value][-1:]
    above = [k for k in divisors(n) if k > value][:1]
    return " or ".join(map(str, below + above))
