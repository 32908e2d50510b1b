"""The base class of every config section, and the sections without a module of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from biggan.config.schedule import Decay, LearningRate

MAX_COUNT = 10**9
"""Bound of every integer without a bound of its own."""
MAX_BATCH = 2**20
MAX_PATH_BYTES, MAX_NAME_BYTES = 3000, 220
"""Linux allows 4,096 and 255; the files of a run need the rest."""
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
NonNegative = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def expand_home(text: object) -> object:
    """Return a path with `~` and `~user` as the home folder, as a shell expands them; other values as they are.

    A path that still starts with `~` (no such user, or `./~x`) becomes absolute: `config.yaml` means the same again.
    """
    if not isinstance(text, str):
        return text
    expanded = os.path.expanduser(text)
    still = expanded.removeprefix("./").startswith("~")
    return os.path.abspath(expanded) if still else expanded


def check_length(path: Any) -> Any:
    """Return the path; raise ValueError if it is too long for a file system."""
    text = str(path)
    names = () if "://" in text else Path(text).parts
    if len(os.fsencode(text)) > MAX_PATH_BYTES or any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in names):
        raise ValueError(f"is too long; use at most {MAX_NAME_BYTES} bytes a name and {MAX_PATH_BYTES:,} in all")
    return path


def not_empty(text: object) -> object:
    """Return the value; raise ValueError if it is empty text."""
    if text == "":
        raise ValueError("is empty; give a path")
    return text


Location = Annotated[str, BeforeValidator(expand_home), AfterValidator(check_length)]
"""A path, or an address that starts with a path: a URL, RUN@STEP."""


class Section(BaseModel):
    """One group of keys: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,  # `from` is a Python keyword, so `init.from` needs an alias
    )


class RunConfig(Section):
    """The run folder and the seed."""

    dir: Annotated[Path, BeforeValidator(expand_home), BeforeValidator(not_empty), AfterValidator(check_length)]
    """Run folder: config, metrics, samples and checkpoints. An existing run is resumed."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of the initial weights, the latents of every step, the data order and the flips."""


class DataConfig(Section):
    """The packed data set and how it is read."""

    path: Annotated[Location, BeforeValidator(not_empty)]
    """Folder or URL written by `biggan pack` (it holds `dataset.json` and the shards)."""
    streams: Annotated[int, Field(gt=0, le=MAX_BATCH)] = 8
    """Number of logical streams that the shards are distributed over. The batches depend on this number, never on the
    number of processes. It must be a multiple of the number of processes, at most the number of shards, and a divisor
    of the micro-batch."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 1
    """Reader processes per rank; 0 reads in the training process. The batches do not depend on it."""
    shuffle_buffer: Positive = 1000
    """Samples per stream that are held in memory, as encoded bytes, and shuffled."""
    horizontal_flip: bool = True
    """Mirror each image with probability 1/2, keyed by sample and epoch. Set it to false for text and digits."""
    max_bad_samples: NonNegative = 100
    """Number of unreadable or missing samples that are logged and skipped before the run stops."""
    allow_pipe: bool = False
    """Permit URLs that start a program: `pipe:` runs a shell command, `gs:` runs gsutil."""
    allow_outside: bool = False
    """Permit shards that `dataset.json` places outside the data set: in another folder or at another URL."""


class InitConfig(Section):
    """Initial weights for fine-tuning. By default weights are drawn from the seed. docs/fine-tuning.md has the
    details."""

    source: Annotated[Location, Field(alias="from")] = ""
    """Export, run (`RUN`, `RUN@STEP`, `RUN@best`, `RUN@good`) or checkpoint folder. The run starts from its EMA
    generator, and from its discriminator if it has one. Read only when the run starts: a resumed run does not need
    it."""
    neighbours: tuple[str, ...] = ()
    """Initial embeddings of classes that the source does not have: `NEW=KNOWN`, or `NEW=A+B` for the mean of several
    classes. A new class that is not listed starts from the mean of all classes of the source."""
    freeze_d_blocks: NonNegative = 0
    """Number of the discriminator's first blocks, counted from the image, that are frozen (freezeD; Mo et al. 2020)."""
    freeze_d_steps: NonNegative = 0
    """Generator steps, from the first step of the run, for which `freeze_d_blocks` are frozen."""
    freeze_g_blocks: NonNegative = 0
    """Number of the generator's first blocks, counted from the lowest resolution, that are frozen together with the
    layer before them. Weights of single classes are always trained."""
    freeze_g_steps: NonNegative = 0
    """Generator steps, from the first step of the run, for which `freeze_g_blocks` are frozen."""

    @model_validator(mode="after")
    def _check_dependencies(self) -> InitConfig:
        given = [key for key in type(self).model_fields if key != "source" and getattr(self, key)]
        if given and not self.source:
            raise ValueError(f"init.{given[0]}: has no effect without init.from; set init.from, or remove the key")
        for network in "gd":
            blocks, steps = f"freeze_{network}_blocks", f"freeze_{network}_steps"
            for key, other in ((blocks, steps), (steps, blocks)):
                if getattr(self, key) and not getattr(self, other):
                    raise ValueError(f"init.{key}: has no effect without init.{other}; set both, or remove the key")
        for neighbour in self.neighbours:
            if "=" not in neighbour[1:-1]:
                raise ValueError(f"init.neighbours: '{neighbour}'; write NEW=KNOWN, or NEW=A+B for the mean of several")
        return self


class TrainingConfig(Section):
    """Length, batch and arithmetic of training."""

    steps: Positive
    """Generator steps in the whole run."""
    batch_size: Annotated[int, Field(gt=0, le=MAX_BATCH)]
    """Global batch of one optimizer step, in images: over all processes and accumulated micro-batches."""
    d_steps: Positive = 2
    """Discriminator steps per generator step."""
    accumulation: Positive = 1
    """Micro-batches per optimizer step, for both networks. BatchNorm sees one micro-batch at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the networks. `bfloat16` is autocast over float32 weights and float32 optimizer state. `auto`
    selects `bfloat16` if the GPU or CPU of every process supports it in hardware, else `float32`; the choice is made
    when the run starts and kept when it resumes."""
    channels_last: bool = True
    """Use the NHWC memory format for convolutions."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    freeze_g_steps: NonNegative = 0
    """Generator steps for which the generator is frozen, counted from the step at which this value takes effect: the
    first of a run or child run, or a rollback's. A child run does not inherit it (the paper's diagnostic)."""
    freeze_d_steps: NonNegative = 0
    """Generator steps for which the discriminator is frozen, counted like `freeze_g_steps`."""
    log_every_steps: Positive = 50
    """Write a row of `metrics.jsonl`, and check for non-finite steps, every `n` generator steps."""

    @model_validator(mode="after")
    def _check_freezes(self) -> TrainingConfig:
        if self.freeze_g_steps and self.freeze_d_steps:
            raise ValueError(
                "training.freeze_g_steps: both networks are frozen, so nothing is trained; "
                "set training.freeze_g_steps or training.freeze_d_steps to 0"
            )
        return self


class OptimizerConfig(Section):
    """Adam for both networks."""

    g_lr: LearningRate
    """Learning rate of the generator, in (0, 1]; a number or a schedule."""
    d_lr: LearningRate
    """Learning rate of the discriminator, in (0, 1]; a number or a schedule."""
    beta1: Decay = 0.0
    """Decay rate of the first moment, in [0, 1); a number or a schedule."""
    beta2: Decay = 0.999
    """Decay rate of the second moment, in [0, 1); a number or a schedule."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Term added to the denominator, above 0."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 0.0
    """Maximum gradient norm of each network; larger gradients are scaled down to it. 0 disables clipping, as in the
    paper."""


class EmaConfig(Section):
    """The EMA generator, which samples are drawn from."""

    decay: Fraction = 0.9999
    """Decay of the exponential moving average per generator step, in [0, 1)."""
    start_step: NonNegative = 0
    """Generator step at which averaging starts; before it the EMA weights equal the generator's."""


class CheckpointConfig(Section):
    """Retention of full checkpoints: a ring that is dense for recent steps and sparse for older ones."""

    every_steps: Positive = 1000
    """Write a checkpoint every `n` generator steps, and at the end."""
    keep_last: Positive = 3
    """Number of newest checkpoints to keep."""
    horizon_steps: NonNegative = 20_000
    """Also keep older checkpoints back to this many generator steps ago, with gaps that grow with their age. At least
    one kept checkpoint is half as many steps old. (The paper restarted 10,000 to 20,000 steps before a collapse.) 0
    keeps none."""
    keep_every_steps: NonNegative = 0
    """Also keep, permanently, every checkpoint whose step is a multiple of this; 0 keeps none. `max_gib` has
    precedence."""
    max_gib: Annotated[float, Field(ge=0, le=MAX_COUNT)] = 0.0
    """Maximum size of all checkpoints together, in GiB, including the one being written; 0 is no limit. There must be
    room for at least two checkpoints, or four with a horizon. Pinned checkpoints are removed last. The newest and the
    last good checkpoint are never removed."""


class SamplesConfig(Section):
    """The sample grid: one class per row, the same z every time."""

    every_steps: Positive = 500
    """Write `samples/step_*.png` every `n` generator steps, and at the end."""
    per_class: Positive = 8
    """Number of columns."""
    max_classes: Positive = 20
    """Maximum number of rows. With more classes, evenly spaced ones are drawn."""


class EvaluationConfig(Section):
    """Evaluation of the EMA generator during training. docs/evaluation.md explains the metrics."""

    every_steps: NonNegative = 0
    """Evaluate every `n` generator steps, and at the end; 0 disables it. Each evaluation writes a checkpoint with the
    score."""
    num_images: Annotated[int, Field(ge=10)] = 10_000
    """Number of images that are generated and evaluated; at least 10."""
    features: Annotated[str, Field(pattern=r"^(classifier|inception|torchvision:\w+)$")] = "classifier"
    """Feature extractor: `classifier` (trained on the data set itself), `inception`, or `torchvision:NAME`."""
    weights: Location = ""
    """Weights file of `inception` or `torchvision:NAME`. For `inception` it may be empty: torch's cache is searched."""
    metric: Literal["fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "accuracy"] = "fid"
    """Metric that ranks checkpoints; `accuracy` needs `features: classifier`."""
    keep_best: NonNegative = 1
    """Number of best checkpoints to keep in addition to the ring."""

    @model_validator(mode="after")
    def _check_features(self) -> EvaluationConfig:
        if self.metric == "accuracy" and self.features != "classifier":
            raise ValueError(
                f"evaluation.metric: accuracy is not available with evaluation.features={self.features}; "
                f"set evaluation.features=classifier, or another metric"
            )
        if self.features == "classifier" and self.weights:
            raise ValueError("evaluation.weights: classifier trains its own weights; remove the key")
        if self.features.startswith("torchvision:") and not self.weights:
            raise ValueError(f"evaluation.weights: missing; {self.features} needs a weights file")
        return self


class DistributedConfig(Section):
    """Training on several processes."""

    engine: Literal["ddp", "deepspeed"] = "ddp"
    """Engine that reduces gradients and updates weights: torch's DistributedDataParallel, or DeepSpeed ZeRO, which
    shards the optimizer state over processes. A single process needs neither."""
    zero_stage: Literal[1, 2] = 1
    """ZeRO stage with `engine: deepspeed`: 1 shards the optimizer state, 2 also the gradients."""
    batchnorm_group_size: NonNegative = 0
    """Number of neighbouring processes that share BatchNorm statistics; 0 means all of them."""
    timeout_seconds: Positive = 600
    """Timeout of a collective, in seconds; when it expires, every process ends. It must be longer than writing a
    checkpoint takes."""


class TrackingConfig(Section):
    """MLflow. `MLFLOW_TRACKING_URI` selects a server; without it, MLflow uses an SQLite file beside the run folder."""

    mlflow: bool = True
    """Send metrics, config and sample grids to MLflow. `metrics.jsonl` is written either way."""
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = "biggan"
    """MLflow experiment."""
