"""The typed config tree: every key there is, its type and default, and what must hold between keys.

Frozen and strict: whatever is not known here is refused (`biggan.config.preset` says how).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from biggan.config.collapse import CollapseConfig, InterventionConfig, RollbackConfig
from biggan.config.init import InitConfig
from biggan.config.model import ModelConfig
from biggan.config.section import Fraction, LearningRate, NonNegative, Positive, Section
from biggan.errors import InputError


class RunConfig(Section):
    """Where the run lives and what it is keyed by."""

    dir: Path
    """The run folder: config, metrics, samples and checkpoints. An existing one is resumed."""
    seed: NonNegative = 0
    """Keys the initial weights, the latents of every step, the data order and the flips."""


class DataConfig(Section):
    """The packed data set and how it is read."""

    path: Annotated[str, Field(min_length=1)]
    """Folder or URL made by `biggan pack` (holds `dataset.json` and the shards)."""
    streams: Positive = 8
    """Logical streams the shards are dealt to: the batches depend on this, never on the world size.
    A multiple of the number of processes, at most the number of shards, dividing the micro-batch."""
    workers: NonNegative = 1
    """Reading processes per rank; 0 reads in the training process. The batches do not depend on it."""
    shuffle_buffer: Positive = 1000
    """Samples each stream holds and shuffles at a time, as encoded bytes in memory."""
    horizontal_flip: bool = True
    """Mirror each image with probability 1/2, keyed by sample and epoch. Off for text and digits."""
    max_bad_samples: NonNegative = 100
    """Unreadable or missing samples that are named and skipped before the run stops."""
    allow_pipe: bool = False
    """Permit `pipe:` shard URLs, which run a shell command."""


class TrainingConfig(Section):
    """The algorithm's cadence and arithmetic."""

    steps: Positive
    """Generator steps in the whole run."""
    batch_size: Positive
    """Global batch of one optimizer step: all processes and accumulations together."""
    d_steps: Positive = 2
    """Discriminator steps per generator step."""
    loss: Literal["hinge", "non_saturating"] = "hinge"
    """`hinge`, or the `non_saturating` logistic loss of Goodfellow et al. 2014."""
    accumulation: Positive = 1
    """Micro-batches per optimizer step, for both networks. BatchNorm sees one micro-batch at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the networks; `bfloat16` is autocast over float32 weights and optimizer. `auto`: `bfloat16` where
    every process's GPU or CPU has it in hardware, else `float32`; settled when the run begins."""
    channels_last: bool = True
    """NHWC memory order for convolutions."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    log_every_steps: Positive = 50
    """Cadence of `metrics.jsonl`, and of the check that stops a non-finite run."""


class OptimizerConfig(Section):
    """Adam for both networks."""

    g_lr: LearningRate
    """Generator's learning rate."""
    d_lr: LearningRate
    """Discriminator's learning rate."""
    beta1: Fraction = 0.0
    """Decay of the gradient's mean."""
    beta2: Fraction = 0.999
    """Decay of the squared gradient's mean."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 0.0
    """Scale each network's gradient down to this norm when it is larger; 0 never does (the paper does not)."""


class RegularizationConfig(Section):
    """Terms added to the losses."""

    orthogonal: Annotated[float, Field(ge=0)] = 0.0
    """beta of the paper's R(W) = beta * ||W W^T * (1 - I)||_F^2 on the generator's raw weights except the
    shared embedding, with its exact gradient. (The published PyTorch code applies half of that gradient:
    its strength s is beta = s / 2 here.)"""


class EmaConfig(Section):
    """The averaged generator that samples are drawn from."""

    decay: Fraction = 0.9999
    """Per-step decay of the weight average."""
    start_step: NonNegative = 0
    """Generator step from which weights are averaged; before it the average follows the generator."""


class CheckpointConfig(Section):
    """What is kept on disk: a ring of full checkpoints, dense near now and thinner backwards."""

    every_steps: Positive = 1000
    """Write a checkpoint every so many generator steps, and at the end."""
    keep_last: Positive = 3
    """Newest checkpoints kept."""
    horizon_steps: NonNegative = 20_000
    """Also keep some of the older ones, the gaps between them growing with their age, back to this many steps ago
    (always one from half as many): the paper restarted 10,000 to 20,000 steps before a collapse. 0 keeps none."""
    keep_every_steps: NonNegative = 0
    """Also keep, for good, the checkpoints whose step is a multiple of this; 0 keeps none. They yield to `max_gib`."""
    max_gib: Annotated[float, Field(ge=0)] = 0.0
    """All checkpoints together, the one being written included, take at most this many GiB; 0 is no limit. At least
    two must fit, four for a horizon. What an alarm has pinned goes last, the newest and the good one never."""


class SamplesConfig(Section):
    """The picture of progress: one class per row, the same z every time."""

    every_steps: Positive = 500
    """Write `samples/step_*.png` every so many generator steps, and at the end."""
    per_class: Positive = 8
    """Columns of the grid."""
    max_classes: Positive = 20
    """Rows of the grid; of more classes, evenly spaced ones are shown."""


class EvaluationConfig(Section):
    """Measuring the averaged generator while it trains. docs/evaluation.md says what the metrics mean."""

    every_steps: NonNegative = 0
    """Measure every so many generator steps, and at the end; 0 never does. A checkpoint with the score is written."""
    num_images: Annotated[int, Field(ge=10)] = 10_000
    """Images that are made and measured."""
    features: Annotated[str, Field(pattern=r"^(classifier|inception|torchvision:\w+)$")] = "classifier"
    """What looks at images: `classifier`, trained on the data set's own images; `inception`; or `torchvision:NAME`."""
    weights: str = ""
    """File of the weights of `inception` (without one, torch's cache is looked at) or of `torchvision:NAME`."""
    metric: Literal["fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "accuracy"] = "fid"
    """By which checkpoints are compared; `accuracy` needs `classifier`."""
    keep_best: NonNegative = 1
    """Keep so many checkpoints for their score, besides the ring's."""

    @model_validator(mode="after")
    def _can_be_measured(self) -> EvaluationConfig:
        if self.metric == "accuracy" and self.features != "classifier":
            raise ValueError(
                f"evaluation.metric: accuracy is not known in {self.features} features; "
                f"set evaluation.features=classifier, or another metric"
            )
        if self.features == "classifier" and self.weights:
            raise ValueError("evaluation.weights: classifier trains its own; leave it out")
        if self.features.startswith("torchvision:") and not self.weights:
            raise ValueError(f"evaluation.weights: missing; {self.features} needs a file of its weights")
        return self


class DistributedConfig(Section):
    """How processes work together."""

    engine: Literal["ddp", "deepspeed"] = "ddp"
    """What reduces gradients and updates the weights: torch's DistributedDataParallel, or DeepSpeed's ZeRO, which
    keeps the optimizer's state in one slice per process. One process alone needs neither."""
    zero_stage: Literal[1, 2] = 1
    """With `engine: deepspeed`: 1 shares out the optimizer's state, 2 the gradients too."""
    batchnorm_group_size: NonNegative = 0
    """Neighbouring processes that share BatchNorm statistics; 0 means all of them."""
    timeout_seconds: Positive = 600
    """A collective that takes longer ends the run on every process. Must be longer than writing a checkpoint."""


class TrackingConfig(Section):
    """MLflow. `MLFLOW_TRACKING_URI` chooses a server; without it, SQLite beside the run folder."""

    mlflow: bool = True
    """Send metrics, config and pictures to MLflow. `metrics.jsonl` is written either way."""
    experiment: str = "biggan"
    """MLflow experiment."""


class Config(Section):
    """Everything a run depends on."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    init: InitConfig = InitConfig()
    training: TrainingConfig
    optimizer: OptimizerConfig
    regularization: RegularizationConfig = RegularizationConfig()
    intervention: InterventionConfig = InterventionConfig()
    collapse: CollapseConfig = CollapseConfig()
    rollback: RollbackConfig = RollbackConfig()
    ema: EmaConfig = EmaConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def micro_batch_size(self) -> int:
        """Images of one forward pass, all processes together."""
        return self.training.batch_size // self.training.accumulation

    @model_validator(mode="after")
    def _batches_divide(self) -> Config:
        t, d = self.training, self.data
        if t.batch_size % t.accumulation:
            raise ValueError(
                f"training.accumulation: {t.accumulation} does not divide training.batch_size "
                f"{t.batch_size}; {divisors_near(t.batch_size, t.accumulation)} would"
            )
        if self.micro_batch_size % d.streams:
            raise ValueError(
                f"data.streams: {d.streams} streams cannot fill a micro-batch of {self.micro_batch_size} "
                f"evenly; {divisors_near(self.micro_batch_size, d.streams)} would"
            )
        return self

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError unless `world_size` processes can share this run's batches evenly."""
        if self.micro_batch_size % world_size:
            lower = self.training.batch_size - self.training.batch_size % (world_size * self.training.accumulation)
            upper = lower + world_size * self.training.accumulation
            raise InputError(
                f"training.batch_size: {self.training.batch_size} does not divide over {world_size} "
                f"processes with training.accumulation={self.training.accumulation}; "
                f"{' or '.join(str(b) for b in (lower, upper) if b)} would"
            )
        if self.data.streams % world_size:
            works = [s for s in divisors(self.micro_batch_size) if s % world_size == 0]
            raise InputError(
                f"data.streams: {self.data.streams} streams do not divide over {world_size} processes; "
                f"these would: {', '.join(map(str, works))}"
            )
        group = self.distributed.batchnorm_group_size
        if group and world_size % group:
            raise InputError(
                f"distributed.batchnorm_group_size: groups of {group} do not divide {world_size} processes; "
                f"{divisors_near(world_size, group)} would"
            )

    def settled(self, bfloat16: bool) -> Config:
        """The same with `training.precision: auto` being `bfloat16` if that is so, else `float32`."""
        if self.training.precision != "auto":
            return self
        precision = "bfloat16" if bfloat16 else "float32"
        return self.model_copy(update={"training": self.training.model_copy(update={"precision": precision})})

    def notes(self) -> list[str]:
        """What was decided for the user, one line each."""
        m = self.model
        if m.effective_z_dim == m.z_dim:
            return []
        return [
            f"model.z_dim: {m.z_dim} is rounded down to {m.effective_z_dim}, "
            f"{m.latent_chunks} chunks of {m.effective_z_dim // m.latent_chunks}"
        ]

    def to_yaml(self) -> str:
        """The whole resolved tree as YAML; `resolve` reads it back to an equal Config."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False)


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    return [k for k in range(1, n + 1) if n % k == 0]


def divisors_near(n: int, wanted: int) -> str:
    """The divisors of n on either side of `wanted`, as words."""
    below = [k for k in divisors(n) if k < wanted][-1:]
    above = [k for k in divisors(n) if k > wanted][:1]
    return " or ".join(map(str, below + above))
