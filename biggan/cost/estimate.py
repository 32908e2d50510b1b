"""Estimate the cost of a config without allocating it: parameters, TFLOP, memory, traffic, time."""

from __future__ import annotations

from dataclasses import dataclass

from biggan.config import Config
from biggan.cost.engine_cost import ENGINES, EngineSettings, Memory, Traffic, memory, traffic, with_collectives
from biggan.cost.scaling import ASSUMED, Cluster, Collective, Seconds, predict
from biggan.cost.trace import Trace, record


@dataclass(frozen=True)
class Cost:
    """Cost of one process under one engine."""

    engine: EngineSettings
    memory: Memory
    traffic: list[Traffic]
    seconds: Seconds
    """Predicted time of a G iteration."""


@dataclass(frozen=True)
class Estimate:
    """Estimate for one process among `world_size`."""

    g_parameters: int
    d_parameters: int
    tflop_per_step: float
    """TFLOP of one G step with its D steps, all processes together. A multiply-add counts as 2."""
    batchnorm_layers: int
    """Number of layers whose statistics processes share: collectives of one training forward pass of G. 0 if none."""
    real_images: int
    """Real images that D is shown in one G step, all processes together."""
    costs: tuple[Cost, ...]
    """Costs under DDP, ZeRO 1 and ZeRO 2."""


def estimate(config: Config, world_size: int, cluster: Cluster = ASSUMED) -> Estimate:
    """Record one process's G iteration on tensors without storage, and compute its cost under every engine."""
    trace = record(config, config.micro_batch_size // world_size)
    collectives = sum(isinstance(event, Collective) for event in trace.steps[0].events)
    return Estimate(
        g_parameters=trace.g_parameters,
        d_parameters=trace.d_parameters,
        tflop_per_step=trace.flop * world_size / 1e12,
        batchnorm_layers=collectives if batchnorm_processes(config, world_size) > 1 else 0,
        real_images=trace.real_micro_batches * config.micro_batch_size,
        costs=tuple(cost(config, trace, engine, world_size, cluster) for engine in ENGINES),
    )


def cost(config: Config, trace: Trace, engine: EngineSettings, world_size: int, cluster: Cluster) -> Cost:
    """Return memory, traffic and time of a recorded iteration under `engine` on `world_size` processes."""
    group = batchnorm_processes(config, world_size)
    steps = with_collectives(trace.steps, engine, world_size)
    return Cost(
        engine,
        memory(trace.g_parameters, trace.d_parameters, trace.activation_bytes, engine, world_size),
        traffic(steps, world_size, group),
        predict(steps, cluster, world_size, group),
    )


def batchnorm_processes(config: Config, world_size: int) -> int:
    """Return the number of processes that share BatchNorm statistics."""
    return config.distributed.batchnorm_group_size or world_size
