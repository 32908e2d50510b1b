"""Fit a cluster to measurements: read the JSON of `biggan doctor` or `benchmarks/scaling_model.py calibrate`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biggan.cost.scaling import ASSUMED, Cluster, Collective, Link, Transport, ring_sent_bytes, ring_steps
from biggan.errors import InputError


def read_calibration(path: Path) -> tuple[Cluster, str]:
    """Read the JSON of `biggan doctor --json` or `benchmarks/scaling_model.py calibrate`.

    Return the measured cluster, and a description of its measured and assumed parts. Values missing from the file, such
    as a process's computing speed, stay as assumed. Raises InputError for a file that cannot be used.
    """
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        cluster = cluster_from(measured)
    except OSError as error:
        raise InputError(f"--calibration: {path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--calibration: {path}: not what `biggan doctor --json` writes under torchrun ({error}); run it again"
        ) from None
    if "compute_scale" in measured:
        return cluster, f"measured, {path}"
    return cluster, f"links measured ({path}), computing assumed"


def cluster_from(measured: dict[str, Any]) -> Cluster:
    """Return the measured cluster.

    `measured` has `world_size`, `hosts` and `collectives`; `backend`, `cores`, `launch_seconds`, `compute_scale` and
    `noise` are optional. Raises ValueError, KeyError or TypeError for missing or invalid values.
    """
    hosts, world_size = len(set(measured["hosts"])), int(measured["world_size"])
    if hosts == 0:
        raise ValueError("hosts: empty")
    timings = [
        Timing(Collective(c["operation"], int(c["bytes"]), "gradients"), world_size, float(c["seconds"]))
        for c in measured["collectives"]
    ]
    if not all(t.seconds > 0 for t in timings):
        raise ValueError("collectives: seconds must be above 0")
    link = fit_link(timings)
    cluster = with_measured_link(replace(ASSUMED, processes_per_node=-(-world_size // hosts)), link, hosts)
    return replace(
        cluster,
        host_hop_seconds=link.seconds if measured.get("backend") == "gloo" else cluster.host_hop_seconds,
        cores_per_node=measured.get("cores"),
        launch_seconds=float(measured.get("launch_seconds", cluster.launch_seconds)),
        compute_scale=float(measured.get("compute_scale", cluster.compute_scale)),
        noise=float(measured.get("noise", cluster.noise)),
    )


@dataclass(frozen=True)
class Timing:
    """Measured seconds of one collective."""

    collective: Collective
    processes: int
    seconds: float


def fit_link(timings: Sequence[Timing]) -> Link:
    """Return the ring hop (latency, seconds per byte) that fits measured collectives best.

    Least squares of relative errors, so that microseconds count as much as seconds. Raises ValueError unless at least
    two different sizes were measured on two or more processes.
    """
    counted = [t for t in timings if t.processes > 1]
    hops = [ring_steps(t.collective.name, t.processes) / t.seconds for t in counted]
    sent = [ring_sent_bytes(t.collective, t.processes) / t.seconds for t in counted]
    # Normal equations of min sum (hops * latency + sent * per_byte - 1)^2.
    hh, hs, ss = _dot(hops, hops), _dot(hops, sent), _dot(sent, sent)
    determinant = hh * ss - hs * hs
    if determinant <= 1e-12 * hh * ss:
        raise ValueError("collectives of at least two sizes, on two or more processes, are needed")
    latency = (sum(hops) * ss - sum(sent) * hs) / determinant
    per_byte = (sum(sent) * hh - sum(hops) * hs) / determinant
    if latency < 0:
        return Link(0.0, sum(sent) / ss)
    return Link(latency, per_byte) if per_byte >= 0 else Link(sum(hops) / hh, 0.0)


def _dot(a: Iterable[float], b: Iterable[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def with_measured_link(cluster: Cluster, link: Link, hosts: int) -> Cluster:
    """Return `cluster` with a measured hop: within nodes only if one host was measured, else everywhere."""
    fastest = min(cluster.transports, key=lambda t: t.between.seconds_per_byte)
    between = fastest.between if hosts == 1 else link
    return replace(cluster, transports=(Transport(0.0, link, between, trees=False),))
