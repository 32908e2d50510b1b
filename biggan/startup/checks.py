"""The checks before a run starts. Each raises InputError with one line that names the key and the fix."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from biggan.config import Config, divisors
from biggan.config.interventions import check_layers
from biggan.config.model import ModelConfig
from biggan.config.preset import flat
from biggan.data.dataset import Dataset, check_trainable, shuffle_warnings
from biggan.data.stream import read_dataset
from biggan.distributed.process import Process, has_bfloat16
from biggan.distributed.zero import load_deepspeed
from biggan.errors import InputError
from biggan.models.architecture import configured_architecture
from biggan.models.layers import named_weights
from biggan.runs import run_folder
from biggan.startup.build import ring


def check_same_config(config: Config, process: Process) -> None:
    """Check that all processes were started with one config. Collective."""
    first, *others = process.gather(flat(config))
    for rank, other in enumerate(others, 1):
        for key in sorted(first.keys() | other.keys()):
            values = [tree.get(key, "no such key") for tree in (first, other)]
            if values[0] != values[1]:
                raise InputError(
                    f"{key}: {values[0]} on rank 0 ({process.hosts[0]}), {values[1]} on rank {rank} "
                    f"({process.hosts[rank]}); start every process with the same config"
                )


def settle_precision(config: Config, process: Process) -> tuple[Config, list[str]]:
    """Return the config with `training.precision: auto` replaced by a precision, and warnings. Collective.

    A run that exists keeps its own precision: another one would change the trajectory.
    """
    in_hardware = all(process.gather(has_bfloat16(process.device)))
    of_run = process.together(lambda: run_folder.precision(config.run.dir) if process.is_main else None)
    of_run = process.gather(of_run)[0]
    config = config.with_precision(in_hardware if of_run is None else of_run == "bfloat16")
    if config.training.precision == "float32" or in_hardware:
        return config, []
    advice = (
        "the run keeps the precision it was started with"
        if of_run
        else "training.precision=float32 or auto is several times faster"
    )
    return config, [f"training.precision: bfloat16, which not every process has in hardware; {advice}"]


def check_engine(config: Config, process: Process) -> None:
    """Check that the engine's library is installed."""
    if config.distributed.engine == "deepspeed" and process.group is not None:
        load_deepspeed(process.device)


def check_interventions(config: Config) -> None:
    """Check that every layer named by an intervention exists in these networks."""
    with torch.device("meta"):
        networks = configured_architecture(config.model)
        named = {"G": networks.generator(), "D": networks.discriminator()}
    check_layers(config, [layer for name, network in named.items() for layer in named_weights(network, name)])


def check_checkpoint_limit(config: Config) -> None:
    """Check that `checkpoint.max_gib` holds the newest checkpoint and the one being written."""
    limit = ring(config).max_bytes
    if limit and limit < (needed := 2 * checkpoint_bytes(config.model)):
        raise InputError(
            f"checkpoint.max_gib: {config.checkpoint.max_gib:g} GiB does not hold the newest checkpoint and the one "
            f"being written; use at least {1.01 * needed / 2**30:.3g}, or 0 for no limit"
        )


def checkpoint_bytes(model: ModelConfig) -> int:
    """Return the bytes of one checkpoint's tensors, float32: weights and two Adam moments of both networks, and EMA."""
    g_count, d_count = parameter_counts(model)
    return 4 * (4 * g_count + 3 * d_count)


def parameter_counts(model: ModelConfig) -> tuple[int, int]:
    """Return the numbers of parameters of G and D, without allocating them."""
    with FakeTensorMode():
        networks = configured_architecture(model)
        pair = networks.generator(), networks.discriminator()
    g_count, d_count = (sum(p.numel() for p in network.parameters()) for network in pair)
    return g_count, d_count


def trainable_dataset(config: Config) -> tuple[Dataset, list[str]]:
    """Read the data set and check that the networks can train on it; return it with warnings."""
    m, d = config.model, config.data
    dataset = read_dataset(d.path, d.allow_pipe, d.allow_outside)
    own = {"classes": m.classes, "resolution": m.resolution, "image_channels": m.image_channels}
    warnings = check_trainable(dataset, **own, streams=d.streams)
    per_batch = config.training.batch_size // d.streams
    return dataset, warnings + shuffle_warnings(dataset, buffer=d.shuffle_buffer, per_batch=per_batch)


def statistics_images(config: Config, world_size: int) -> int:
    """Return the number of images that share BatchNorm statistics."""
    return config.micro_batch_size * (config.distributed.batchnorm_group_size or world_size) // world_size


def check_statistics(config: Config, world_size: int, images: int) -> None:
    """Check that BatchNorm statistics still cover `images` images: the trajectory depends on it."""
    now = statistics_images(config, world_size)
    if now == images:
        return
    keeping = [group for group in divisors(world_size) if config.micro_batch_size * group == images * world_size]
    fix = f"resume with distributed.batchnorm_group_size={keeping[0]}" if keeping else "no group size keeps them"
    raise InputError(
        f"distributed.batchnorm_group_size: BatchNorm statistics covered {images} images so far, but groups of "
        f"{config.distributed.batchnorm_group_size or world_size} of {world_size} processes would cover {now}; {fix}"
    )
