"""Build the objects that a config describes: networks, engines, recipe, trajectory, monitor."""

from __future__ import annotations

import torch
from torch import nn

from biggan.collapse.monitor import Monitor
from biggan.collapse.quality import REAL_IMAGES, QualityProbe, RealImages
from biggan.config import Config
from biggan.config.interventions import effective, trajectory_seed
from biggan.data.dataset import Dataset
from biggan.data.loader import Loader
from biggan.data.preview import first_images
from biggan.data.stream import START, Cursor, ReadPlan
from biggan.distributed.engine import AdamSettings, DDPEngine, Engine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, batchnorm_group, has_bfloat16
from biggan.distributed.zero import ZeroEngine
from biggan.gan import Ema, Gan
from biggan.models.architecture import configured_architecture
from biggan.models.batchnorm import set_batchnorm_group
from biggan.models.networks import initialize
from biggan.objectives.losses import HINGE, NON_SATURATING
from biggan.objectives.spectral import SpectralLimit
from biggan.runs.ring import Ring
from biggan.training.latents import Latents
from biggan.training.state import TrainingState
from biggan.training.step import FrozenBlocks, Recipe
from biggan.training.trajectory import Trajectory


def gan(config: Config, process: Process, guard: FiniteGuard) -> Gan:
    """Build both networks from the seed, on the device and in their memory format, with engines and EMA."""
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
    """Return the learning rates of G and D, with the factors in force after `rollbacks` rollbacks."""
    o, intervention = config.optimizer, effective(config, rollbacks)
    return o.g_lr * intervention.g_lr_factor, o.d_lr * intervention.d_lr_factor


def ring(config: Config) -> Ring:
    """Return the rules by which checkpoints are kept."""
    keep = config.checkpoint
    best = config.evaluation.keep_best if config.evaluation.every_steps else 0
    return Ring(keep.keep_last, keep.horizon_steps, keep.keep_every_steps, int(keep.max_gib * 2**30), best)


def engine(config: Config, name: str, network: nn.Module, lr: float, process: Process, guard: FiniteGuard) -> Engine:
    """Build the engine of one network. A single process has nothing to partition, so it never uses ZeRO."""
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
    """Build the recipe after `rollbacks` rollbacks; the intervention in force started after G step `since_step`."""
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
        g_frozen_blocks=FrozenBlocks(config.init.freeze_g_blocks, config.init.freeze_g_steps),
        d_frozen_blocks=FrozenBlocks(config.init.freeze_d_blocks, config.init.freeze_d_steps),
    )


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Return the autocast context of the networks' forward passes."""
    # No cache: the same weight is used with and without gradients inside one context.
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(config, device), cache_enabled=False)


def in_bfloat16(config: Config, device: torch.device) -> bool:
    """Return True if the networks compute in bfloat16 on `device`."""
    return config.with_precision(has_bfloat16(device)).training.precision == "bfloat16"


def monitor(config: Config, dataset: Dataset, gan: Gan, process: Process) -> Monitor:
    """Build the collapse monitor, with the first real images of each split as its reference."""
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


def trajectory(
    config: Config, dataset: Dataset, process: Process, state: TrainingState, cursors: list[Cursor]
) -> Trajectory:
    """Build the trajectory that continues from `state` and `cursors`, and set its learning rates."""
    rates = learning_rates(config, state.rollbacks)
    for engine, rate in zip((state.gan.generator, state.gan.discriminator), rates, strict=True):
        engine.set_learning_rate(rate)
    return Trajectory(
        loader(config, dataset, process, cursors, data_seed(config, state)),
        latents(config, process, state.rollbacks),
        recipe(config, process, state.rollbacks, state.since_step),
    )


def latents(config: Config, process: Process, rollbacks: int = 0) -> Latents:
    """Build this rank's slice of the latents of every step."""
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


def data_seed(config: Config, state: TrainingState) -> int:
    """Return the seed of the data order, which the streams' positions depend on."""
    return trajectory_seed(config.run.seed if state.data_seed is None else state.data_seed, state.rollbacks)


def loader(config: Config, dataset: Dataset, process: Process, cursors: list[Cursor], seed: int) -> Loader:
    """Build this rank's loader of the training split, ordered by `seed`, starting at `cursors` (one per stream)."""
    plan = ReadPlan(
        root=config.data.path.rstrip("/"),
        shards=dataset.splits["train"].shards,
        resolution=dataset.resolution,
        channels=dataset.channels,
        classes=len(dataset.classes),
        streams=config.data.streams,
        shuffle_buffer=config.data.shuffle_buffer,
        horizontal_flip=config.data.horizontal_flip,
        seed=seed,
        max_bad_samples=config.data.max_bad_samples,
        access=dataset.access,
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
    """Return the start of every stream."""
    return [START] * config.data.streams
