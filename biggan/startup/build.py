"""From a config to the objects it describes."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from biggan.collapse.monitor import Monitor
from biggan.collapse.quality import REAL_IMAGES, QualityProbe, RealImages
from biggan.config import Config, divisors
from biggan.config.interventions import check_layers, effective
from biggan.config.model import ModelConfig
from biggan.data.dataset import Dataset
from biggan.data.loader import Loader
from biggan.data.preview import first_images
from biggan.data.stream import START, Cursor, ReadPlan
from biggan.distributed.engine import AdamSettings, DDPEngine, Engine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, batchnorm_group, has_bfloat16
from biggan.distributed.zero import ZeroEngine, load_deepspeed
from biggan.errors import InputError
from biggan.gan import Ema, Gan
from biggan.models.architecture import configured_architecture
from biggan.models.batchnorm import set_batchnorm_group
from biggan.models.layers import named_weights
from biggan.models.networks import initialize
from biggan.objectives.losses import HINGE, NON_SATURATING
from biggan.objectives.spectral import SpectralLimit
from biggan.runs.ring import Ring
from biggan.training.latents import Latents
from biggan.training.state import TrainingState
from biggan.training.step import FrozenBlocks, Recipe
from biggan.training.trajectory import Trajectory, trajectory_seed


def gan(config: Config, process: Process, guard: FiniteGuard) -> Gan:
    """Both networks from the seed, on the device, in their memory format, with engines and EMA."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        described = configured_architecture(config.model)
        networks: list[nn.Module] = [described.generator(), described.discriminator()]
        for network in networks:
            initialize(network, config.model.initialization)
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    for network in networks:
        network.to(process.device, memory_format=layout)  # type: ignore[call-overload]
    G, D = networks
    ema = Ema(G, config.ema.decay, config.ema.start_step)
    shared = config.distributed
    set_batchnorm_group(G, batchnorm_group(process, shared.batchnorm_group_size, shared.timeout_seconds))
    if config.training.compile:
        G.compile()
        D.compile()

    g_lr, d_lr = learning_rates(config)
    return Gan(engine(config, "G", G, g_lr, process, guard), engine(config, "D", D, d_lr, process, guard), ema)


def learning_rates(config: Config, rollbacks: int = 0) -> tuple[float, float]:
    """G's and D's, with the factors in force after so many rollbacks."""
    o, intervention = config.optimizer, effective(config, rollbacks)
    return o.g_lr * intervention.g_lr_factor, o.d_lr * intervention.d_lr_factor


def check_interventions(config: Config) -> None:
    """Raise InputError if an intervention is meant for layers that these networks do not have."""
    with torch.device("meta"):
        described = configured_architecture(config.model)
        networks = {"G": described.generator(), "D": described.discriminator()}
    check_layers(config, [layer for name, network in networks.items() for layer in named_weights(network, name)])


def check_engine(config: Config, process: Process) -> None:
    """Raise InputError if the engine's library is not on this machine."""
    if config.distributed.engine == "deepspeed" and process.group is not None:
        load_deepspeed(process.device)


def ring(config: Config) -> Ring:
    """Which checkpoints are kept."""
    keep = config.checkpoint
    best = config.evaluation.keep_best if config.evaluation.every_steps else 0
    return Ring(keep.keep_last, keep.horizon_steps, keep.keep_every_steps, int(keep.max_gib * 2**30), best)


def parameter_counts(model: ModelConfig) -> tuple[int, int]:
    """How many numbers G and D learn."""
    with FakeTensorMode():
        described = configured_architecture(model)
        networks = described.generator(), described.discriminator()
    g_count, d_count = (sum(p.numel() for p in network.parameters()) for network in networks)
    return g_count, d_count


def checkpoint_bytes(model: ModelConfig) -> int:
    """One checkpoint's tensors, float32: G's weights, Adam's two moments and EMA; D's weights and two moments."""
    g_count, d_count = parameter_counts(model)
    return 4 * (4 * g_count + 3 * d_count)


def check_checkpoint_limit(config: Config) -> None:
    """Raise InputError if `checkpoint.max_gib` cannot hold the newest checkpoint and the one being written."""
    limit = ring(config).max_bytes
    if limit and limit < (least := 2 * checkpoint_bytes(config.model)):
        raise InputError(
            f"checkpoint.max_gib: {config.checkpoint.max_gib:g} GiB does not hold the newest checkpoint and the one "
            f"being written; use at least {1.01 * least / 2**30:.3g}, or 0 for no limit"
        )


def statistics_images(config: Config, world_size: int) -> int:
    """Images of a micro-batch whose BatchNorm statistics are taken together."""
    return config.micro_batch_size * (config.distributed.batchnorm_group_size or world_size) // world_size


def check_statistics(config: Config, world_size: int, images: int) -> None:
    """Raise InputError unless BatchNorm's statistics are still those of `images`: the path follows from it."""
    now = statistics_images(config, world_size)
    if now == images:
        return
    keeping = [group for group in divisors(world_size) if config.micro_batch_size * group == images * world_size]
    mend = f"go on with distributed.batchnorm_group_size={keeping[0]}" if keeping else "no group size keeps them"
    raise InputError(
        f"distributed.batchnorm_group_size: BatchNorm's statistics were those of {images} images, groups of "
        f"{config.distributed.batchnorm_group_size or world_size} of {world_size} processes would take {now}; {mend}"
    )


def engine(config: Config, name: str, network: nn.Module, lr: float, process: Process, guard: FiniteGuard) -> Engine:
    """What trains one network. A single process has nothing to share out: it needs no ZeRO."""
    o = config.optimizer
    adam = AdamSettings(lr=lr, betas=(o.beta1, o.beta2), eps=o.eps, max_grad_norm=o.max_grad_norm)
    if config.distributed.engine == "ddp" or process.group is None:
        return DDPEngine(network, name=name, adam=adam, process=process, guard=guard)
    return ZeroEngine(
        network,
        name=name,
        adam=adam,
        process=process,
        guard=guard,
        stage=config.distributed.zero_stage,
        autocast=torch.bfloat16 if in_bfloat16(config, process.device) else None,
    )


def recipe(config: Config, process: Process, rollbacks: int = 0, since_step: int = 0) -> Recipe:
    """What the training step does after so many rollbacks, the intervention having begun after G step `since_step`."""
    intervention = effective(config, rollbacks)
    limit = SpectralLimit(
        layers=intervention.spectral_layers,
        target=intervention.spectral_target,
        ratio=intervention.spectral_ratio,
        strength=intervention.spectral_penalty,
        clamp=intervention.spectral_clamp,
    )
    return Recipe(
        d_steps=intervention.d_steps or config.training.d_steps,
        accumulation=config.training.accumulation,
        orthogonal=config.regularization.orthogonal + intervention.orthogonal,
        autocast=autocast(config, process.device),
        loss=HINGE if config.training.loss == "hinge" else NON_SATURATING,
        r1_gamma=intervention.r1_gamma,
        r1_every_d_steps=intervention.r1_every_d_steps,
        spectral=limit if limit.strength or limit.clamp else None,
        g_frozen_until_step=since_step + intervention.freeze_g_steps,
        d_frozen_until_step=since_step + intervention.freeze_d_steps,
        g_lower=FrozenBlocks(config.init.freeze_g_blocks, config.init.freeze_g_steps),
        d_lower=FrozenBlocks(config.init.freeze_d_blocks, config.init.freeze_d_steps),
    )


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The arithmetic of the networks, as a context."""
    # Without the cache: the same weight is used with and without gradients inside one context.
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(config, device), cache_enabled=False)


def in_bfloat16(config: Config, device: torch.device) -> bool:
    """Whether that is bfloat16."""
    return config.settled(has_bfloat16(device)).training.precision == "bfloat16"


def monitor(config: Config, dataset: Dataset, gan: Gan, process: Process) -> Monitor:
    """What watches the run, with the first real images of each split to measure by."""
    root = config.data.path.rstrip("/")
    train, held_out = (RealImages(*first_images(dataset, root, name, REAL_IMAGES)) for name in ("train", "val"))
    quality = QualityProbe(
        classes=config.model.classes,
        z_dim=config.model.effective_z_dim,
        seed=config.run.seed,
        process=process,
        train=train,
        held_out=held_out,
    )
    every_steps = config.training.log_every_steps
    return Monitor(config.collapse, every_steps, gan, process, quality, autocast(config, process.device))


def course(
    config: Config, dataset: Dataset, process: Process, state: TrainingState, cursors: list[Cursor]
) -> Trajectory:
    """What every step after `state` is given, the learning rates included."""
    rates = learning_rates(config, state.rollbacks)
    for engine, rate in zip((state.gan.generator, state.gan.discriminator), rates, strict=True):
        engine.set_learning_rate(rate)
    return Trajectory(
        loader(config, dataset, process, cursors, state.rollbacks),
        latents(config, process, state.rollbacks),
        recipe(config, process, state.rollbacks, state.since_step),
    )


def latents(config: Config, process: Process, rollbacks: int = 0) -> Latents:
    """This rank's share of the latents of every step."""
    return Latents(
        seed=trajectory_seed(config.run.seed, rollbacks),
        z_dim=config.model.effective_z_dim,
        classes=config.model.classes,
        micro_batch_size=config.micro_batch_size,
        accumulation=config.training.accumulation,
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
    )


def loader(config: Config, dataset: Dataset, process: Process, cursors: list[Cursor], rollbacks: int) -> Loader:
    """This rank's batches of the training split, from `cursors` (one per stream) on."""
    plan = ReadPlan(
        root=config.data.path.rstrip("/"),
        shards=dataset.splits["train"].shards,
        resolution=dataset.resolution,
        channels=dataset.channels,
        classes=len(dataset.classes),
        streams=config.data.streams,
        shuffle_buffer=config.data.shuffle_buffer,
        horizontal_flip=config.data.horizontal_flip,
        seed=trajectory_seed(config.run.seed, rollbacks),
        max_bad_samples=config.data.max_bad_samples,
    )
    return Loader(
        plan,
        micro_batch_size=config.micro_batch_size,
        cursors=cursors,
        rank=process.rank,
        world_size=process.world_size,
        workers=config.data.workers,
    )


def first_cursors(config: Config) -> list[Cursor]:
    """Every stream at its beginning."""
    return [START] * config.data.streams
