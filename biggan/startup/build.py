"""Build the objects that a config describes: networks, engines, recipe, trajectory, monitor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from biggan.collapse.monitor import Monitor
from biggan.collapse.quality import REAL_IMAGES, QualityProbe, RealImages
from biggan.config import Config
from biggan.config.interventions import in_force, trajectory_seed
from biggan.data.dataset import Dataset
from biggan.data.loader import Loader
from biggan.data.preview import first_images
from biggan.data.stream import START, Cursor, ReadPlan
from biggan.distributed.engine import DDPEngine, Engine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, batchnorm_group, has_bfloat16
from biggan.distributed.zero import ZeroEngine
from biggan.draws import Draws
from biggan.gan import Ema, Gan
from biggan.models.architecture import configured_architecture
from biggan.models.batchnorm import set_batchnorm_group
from biggan.models.networks import initialize
from biggan.runs import lineage
from biggan.runs.ring import Ring
from biggan.startup.recipe import adam_schedule, compose, techniques
from biggan.training.state import TrainingState
from biggan.training.trajectory import Trajectory


def gan(config: Config, process: Process, guard: FiniteGuard, extension: Mapping[str, Any] | None = None) -> Gan:
    """Build both networks from the seed, on the device and in their memory format, with engines and EMA.

    `extension` has the parts of a researcher's own files by import path.
    """
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
    group = batchnorm_group(process, shared.batchnorm_group_size, shared.timeout_seconds)
    for network in networks:
        set_batchnorm_group(network, group)
    if config.training.compile:
        G.compile()
        D.compile()

    kept = techniques(extension).to(process.device)
    engines = engine(config, "G", G, process, guard), engine(config, "D", D, process, guard)
    return Gan(*engines, ema, kept, extension or {})


def ring(config: Config) -> Ring:
    """Return the rules by which checkpoints are kept."""
    keep = config.checkpoint
    best = config.evaluation.keep_best if config.evaluation.every_steps else 0
    return Ring(keep.keep_last, keep.horizon_steps, keep.keep_every_steps, int(keep.max_gib * 2**30), best)


def engine(config: Config, name: str, network: nn.Module, process: Process, guard: FiniteGuard) -> Engine:
    """Build the engine of one network. A single process has nothing to partition, so it never uses ZeRO."""
    adam = adam_schedule(config, name).at(1)  # each update sets its own
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
    """Build the trajectory that continues from `state` and `cursors`, with the values in force there."""
    values, gan = in_force(config, state.rollbacks), state.gan
    gan.ema.decay = values.ema.decay
    if has_another_loss(config, state):
        state.monitor.history.forget_losses()
    return Trajectory(
        loader(config, dataset, process, cursors, data_seed(config, state)),
        draws(config, process, state.rollbacks),
        compose(values, gan, autocast(config, process.device), state.since_step),
    )


def has_another_loss(config: Config, state: TrainingState) -> bool:
    """Return True if another loss than before takes effect at this very step."""
    if not 0 < state.step == state.since_step:
        return False
    if state.rollbacks:
        return in_force(config, state.rollbacks).loss != in_force(config, state.rollbacks - 1).loss
    parent = lineage.read(config.run.dir)
    return parent is not None and parent.changes_loss


def draws(config: Config, process: Process, rollbacks: int = 0) -> Draws:
    """Build this rank's slice of the random numbers of every step."""
    return Draws(
        seed=trajectory_seed(config.run.seed, rollbacks),
        z_dim=config.model.effective_z_dim,
        classes=config.model.classes,
        micro_batch_size=config.micro_batch_size,
        accumulation=config.training.accumulation,
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
        group=process.group,
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
