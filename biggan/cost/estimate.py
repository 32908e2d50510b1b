"""What a config will cost, computed without allocating it: parameters, TFLOP, memory, traffic, time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biggan.config import Config
from biggan.cost.communication import ENGINES, EngineSettings, Traffic, traffic, with_collectives
from biggan.cost.memory import Memory, memory
from biggan.cost.scaling import ASSUMED, Cluster, Collective, Seconds, Timing, calibrated, fit, predict
from biggan.cost.trace import Trace, record
from biggan.errors import InputError


@dataclass(frozen=True)
class Cost:
    """Of one process under one engine."""

    engine: EngineSettings
    memory: Memory
    traffic: list[Traffic]
    seconds: Seconds
    """Of a G iteration, as the scaling model predicts."""


@dataclass(frozen=True)
class Estimate:
    """Of one process among `world_size`."""

    g_parameters: int
    d_parameters: int
    tflop_per_step: float
    """Multiply-adds counted as 2, all processes together: one G step with its D steps."""
    batchnorm_layers: int
    """Whose statistics processes share: collectives of one forward pass of G in training mode; 0 if none shares."""
    costs: tuple[Cost, ...]
    """Under DDP, ZeRO 1 and ZeRO 2."""


def estimate(config: Config, world_size: int, cluster: Cluster = ASSUMED) -> Estimate:
    """Record a G iteration of one process's share on tensors without storage, and count."""
    trace = record(config, config.micro_batch_size // world_size)
    exchanges = sum(isinstance(event, Collective) for event in trace.steps[0].events)
    return Estimate(
        g_parameters=trace.g_parameters,
        d_parameters=trace.d_parameters,
        tflop_per_step=trace.flop * world_size / 1e12,
        batchnorm_layers=exchanges if batchnorm_processes(config, world_size) > 1 else 0,
        costs=tuple(cost(config, trace, engine, world_size, cluster) for engine in ENGINES),
    )


def cost(config: Config, trace: Trace, engine: EngineSettings, world_size: int, cluster: Cluster) -> Cost:
    """Memory, traffic and time of a recorded iteration under `engine` on `world_size` processes."""
    group = batchnorm_processes(config, world_size)
    steps = with_collectives(trace.steps, engine, world_size)
    return Cost(
        engine,
        memory(trace.g_parameters, trace.d_parameters, trace.activation_bytes, engine, world_size),
        traffic(steps, world_size, group),
        predict(steps, cluster, world_size, group),
    )


def batchnorm_processes(config: Config, world_size: int) -> int:
    """How many processes share BatchNorm statistics."""
    return config.distributed.batchnorm_group_size or world_size


def read_calibration(path: Path) -> tuple[Cluster, str]:
    """The cluster that `biggan doctor --json` or `benchmarks/scaling_model.py calibrate` measured, and what of it was.

    What the file does not say (how fast a process computes, say) stays as assumed. Raises InputError for a file
    that cannot be used.
    """
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        cluster = cluster_from(measured)
    except OSError as error:
        raise InputError(f"--calibration: {path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--calibration: {path}: not what `biggan doctor --json` writes under torchrun ({error})"
        ) from None
    if "compute_scale" in measured:
        return cluster, f"measured, {path}"
    return cluster, f"links measured ({path}), computing assumed"


def cluster_from(measured: dict[str, Any]) -> Cluster:
    """`measured` holds world_size, hosts and collectives; what a process is like where that was measured."""
    hosts, world_size = len(set(measured["hosts"])), int(measured["world_size"])
    if hosts == 0:
        raise ValueError("hosts: it names none")
    timings = [
        Timing(Collective(c["operation"], int(c["bytes"]), "gradients"), world_size, float(c["seconds"]))
        for c in measured["collectives"]
    ]
    if not all(t.seconds > 0 for t in timings):
        raise ValueError("collectives: seconds must be above 0")
    link = fit(timings)
    cluster = calibrated(replace(ASSUMED, processes_per_node=-(-world_size // hosts)), link, hosts)
    return replace(
        cluster,
        host_hop_seconds=link.seconds if measured.get("backend") == "gloo" else cluster.host_hop_seconds,
        cores_per_node=measured.get("cores"),
        launch_seconds=float(measured.get("launch_seconds", cluster.launch_seconds)),
        compute_scale=float(measured.get("compute_scale", cluster.compute_scale)),
        noise=float(measured.get("noise", cluster.noise)),
    )
