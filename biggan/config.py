"""The typed config tree: every key there is, its type and default, and what must hold between keys.

Frozen and strict: whatever is not known here is refused (`biggan.preset` says how).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from biggan.errors import InputError

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """One group of keys: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


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


class ModelConfig(Section):
    """The generator and discriminator (Brock et al. 2018, appendix B)."""

    family: Literal["biggan"] = "biggan"
    """Network family."""
    resolution: Literal[32, 64, 128, 256, 512]
    """Image height and width, pixels."""
    channels: Positive
    """Width multiplier `ch` of both networks (96 in the paper)."""
    classes: Positive
    """Number of classes; 1 is unconditional."""
    z_dim: Positive
    """Size of the latent. With `hierarchical_z` it is rounded down to a multiple of the number of chunks
    (one per block and one for the first layer), as the paper's code does."""
    class_embedding_dim: NonNegative = 128
    """Size of the class embedding shared by all conditional BatchNorms; 0 gives each its own table."""
    hierarchical_z: bool = True
    """Feed a chunk of z to every block besides the first layer (needs a shared embedding)."""
    g_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, after which the generator has self-attention."""
    d_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, after which the discriminator has self-attention."""
    initialization: Literal["orthogonal", "normal"] = "orthogonal"
    """`orthogonal`, or `normal` for N(0, 0.02)."""
    sn_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to norms in the power iteration of spectral normalization."""
    bn_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to variances in BatchNorm."""

    @property
    def latent_chunks(self) -> int:
        """Equal parts z is cut into: the first layer's and, when hierarchical, one per block."""
        return 1 + int(math.log2(self.resolution // 4)) if self.hierarchical_z else 1

    @property
    def effective_z_dim(self) -> int:
        """`z_dim` rounded down to a multiple of `latent_chunks`."""
        return self.z_dim // self.latent_chunks * self.latent_chunks

    @model_validator(mode="after")
    def _networks_exist(self) -> ModelConfig:
        g_resolutions = [2**k for k in range(3, int(math.log2(self.resolution)) + 1)]
        d_resolutions = [r // 2 for r in g_resolutions if r // 2 >= (8 if self.resolution == 32 else 4)]
        for key, wanted, available in (
            ("g_attention", self.g_attention, g_resolutions),
            ("d_attention", self.d_attention, d_resolutions),
        ):
            for r in wanted:
                if r not in available:
                    nearest = min(available, key=lambda a: abs(math.log2(a / r)))
                    raise ValueError(
                        f"model.{key}: a {self.resolution} px network has no {r} px features; "
                        f"it has {', '.join(map(str, available))} (nearest: {nearest})"
                    )
            if len(set(wanted)) != len(wanted):
                raise ValueError(f"model.{key}: {list(wanted)} names a resolution twice")
        if self.hierarchical_z and not self.class_embedding_dim:
            raise ValueError(
                "model.hierarchical_z: needs a shared class embedding; "
                "set model.class_embedding_dim (128 in the paper) or model.hierarchical_z=false"
            )
        if self.effective_z_dim == 0:
            raise ValueError(
                f"model.z_dim: {self.z_dim} is less than the {self.latent_chunks} chunks hierarchical z "
                f"needs at {self.resolution} px; use at least {self.latent_chunks}"
            )
        return self


class TrainingConfig(Section):
    """The algorithm's cadence and arithmetic."""

    steps: Positive
    """Generator steps in the whole run."""
    batch_size: Positive
    """Global batch of one optimizer step: all processes and accumulations together."""
    d_steps: Positive = 2
    """Discriminator steps per generator step."""
    accumulation: Positive = 1
    """Micro-batches per optimizer step, for both networks. BatchNorm sees one micro-batch at a time."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the networks; `bfloat16` is autocast over float32 weights and optimizer."""
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
