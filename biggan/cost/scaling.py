"""How long a G iteration takes on N processes: a latency-bandwidth model. Pure arithmetic; docs/scaling.md explains.

A process is three queues: the host launches operations in order, the device runs them in order, and the network
runs collectives in order. `trace` says what is put on them, `Cluster` what each thing costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from biggan.cost.stragglers import straggling

CollectiveName = Literal["all_reduce", "all_gather"]
Cause = Literal["gradients", "parameters", "batchnorm", "host flag"]


@dataclass(frozen=True)
class Operation:
    """One kernel: its multiply-adds, counted as 2 FLOP, their precision, and the bytes it reads and writes."""

    flop: int
    bytes: int
    float32: bool = False


@dataclass(frozen=True)
class GradientReady:
    """The backward pass has finished the gradient of one parameter, of so many bytes."""

    bytes: int


@dataclass(frozen=True)
class Collective:
    """Processes exchange data. `bytes` is each one's input: the whole of an all-reduce, one row of an all-gather."""

    name: CollectiveName
    bytes: int
    cause: Cause


Event = Operation | GradientReady | Collective


@dataclass(frozen=True)
class MicroStep:
    """Forward and backward of one micro-batch, `repeats` times a G iteration; at a `boundary` the weights move."""

    events: tuple[Event, ...]
    repeats: int
    boundary: bool


@dataclass(frozen=True)
class Link:
    """What one hop costs: a constant, and so much for every byte."""

    seconds: float
    seconds_per_byte: float


@dataclass(frozen=True)
class Transport:
    """One way of sending: a constant for each collective, hops within a node and between nodes.

    `between.seconds_per_byte` is that of a whole node's adapters together. `trees`: all-reduces may go along
    a tree as well as around a ring.
    """

    base_seconds: float
    within: Link
    between: Link
    trees: bool


@dataclass(frozen=True)
class Cluster:
    """Machines: what computing, sending and waiting for one another cost there."""

    processes_per_node: int
    transports: tuple[Transport, ...]
    """A collective takes whichever is fastest for its size."""
    bfloat16_flop_per_second: float
    """That convolutions and matrix products reach, each process."""
    float32_flop_per_second: float
    """Likewise, in float32."""
    bytes_per_second: float
    """That operations bound by memory reach, each process."""
    launch_seconds: float
    """The host's time to launch one operation."""
    host_hop_seconds: float
    """Of a few bytes in gloo's rings, from processor to processor over TCP."""
    noise: float
    """Standard deviation, seconds, of what one process takes for a second's work with nobody to wait for; it grows
    with the square root of time."""
    cores_per_node: int | None = None
    """Processes of a node beyond so many share cores, and networking takes its time from the same cores;
    None: each has a device of its own, and the network works beside it."""
    compute_scale: float = 1.0
    """Measured over modelled seconds of a step on one process."""

    def operation_seconds(self, operation: Operation) -> float:
        """Roofline: bound by arithmetic or by memory."""
        rate = self.float32_flop_per_second if operation.float32 else self.bfloat16_flop_per_second
        return max(operation.flop / rate, operation.bytes / self.bytes_per_second)

    def crowding(self, processes: int) -> float:
        """How many processes share one core."""
        on_one_node = min(processes, self.processes_per_node)
        return 1.0 if self.cores_per_node is None else max(1.0, on_one_node / self.cores_per_node)

    def seconds(self, collective: Collective, processes: int) -> float:
        """Duration of one collective over `processes` neighbours; 0 when there is one."""
        if processes == 1:
            return 0.0
        nodes = math.ceil(processes / self.processes_per_node)
        ways = [(ring_seconds, t) for t in self.transports]
        if collective.name == "all_reduce":
            ways += [(tree_seconds, t) for t in self.transports if t.trees]
        return min(transport.base_seconds + way(collective, processes, nodes, transport) for way, transport in ways)


def ring_steps(name: CollectiveName, processes: int) -> int:
    """Hops one after another around a ring: N - 1 to gather, twice that to reduce and then gather."""
    return (processes - 1) * (2 if name == "all_reduce" else 1)


def ring_bytes(collective: Collective, processes: int) -> float:
    """Bytes each process sends: 2 S (N - 1) / N for an all-reduce of S, s (N - 1) for an all-gather of rows s."""
    chunk = collective.bytes / processes if collective.name == "all_reduce" else collective.bytes
    return ring_steps(collective.name, processes) * chunk


def ring_seconds(collective: Collective, processes: int, nodes: int, transport: Transport) -> float:
    """A ring through every node once: its hops' latencies, and its bytes over the slowest link."""
    steps = ring_steps(collective.name, processes)
    between = ring_steps(collective.name, nodes)
    slowest = max(link.seconds_per_byte for link in used(transport, nodes))
    latency = (steps - between) * transport.within.seconds + between * transport.between.seconds
    return latency + ring_bytes(collective, processes) * slowest


def tree_seconds(collective: Collective, processes: int, nodes: int, transport: Transport) -> float:
    """An all-reduce up and down a chain in each node and a binary tree over nodes; every byte moves twice."""
    slowest = max(link.seconds_per_byte for link in used(transport, nodes))
    within = math.ceil(processes / nodes) - 1
    latency = within * transport.within.seconds + math.ceil(math.log2(nodes)) * transport.between.seconds
    return 2 * (latency + collective.bytes * slowest)


def used(transport: Transport, nodes: int) -> tuple[Link, ...]:
    """The links that a collective over so many nodes goes through."""
    return (transport.within,) if nodes == 1 else (transport.within, transport.between)


@dataclass(frozen=True)
class Seconds:
    """Of one G iteration, by what it is spent on."""

    compute: float
    gradients: float
    """Reducing gradients and gathering updated parameters, where nothing else goes on."""
    batchnorm: float
    host_flag: float
    """The loop's flag, as far as the device has nothing to do meanwhile."""
    straggler: float
    """Waiting for the slowest: of a BatchNorm group at each of its collectives, of all at each optimizer step."""

    @property
    def total(self) -> float:
        """The whole iteration."""
        return self.compute + self.gradients + self.batchnorm + self.host_flag + self.straggler


def predict(steps: Sequence[MicroStep], cluster: Cluster, processes: int, batchnorm_processes: int) -> Seconds:
    """Seconds of the G iteration made of `steps` (with the engine's collectives in them, as `communication` puts them).

    `batchnorm_processes` neighbours share BatchNorm statistics. If these are all processes, their messages queue
    behind gradients (one communicator); smaller groups have a queue of their own.
    """
    compute = gradients = batchnorm = ahead = 0.0
    meetings = updates = 0
    for step in steps:
        spent, ahead = timeline(step.events, cluster, processes, batchnorm_processes)
        compute += spent.compute * step.repeats
        gradients += spent.gradients * step.repeats
        batchnorm += spent.batchnorm * step.repeats
        exchanges = sum(isinstance(e, Collective) and e.cause == "batchnorm" for e in step.events)
        updates += step.repeats * step.boundary
        meetings += step.repeats * (step.boundary + exchanges)
    waiting = straggling(compute, cluster.noise, meetings, updates, processes, batchnorm_processes)
    host_flag = max(0.0, flag_seconds(cluster, processes) - ahead)
    return Seconds(compute, gradients, batchnorm, host_flag, waiting)


def flag_seconds(cluster: Cluster, processes: int) -> float:
    """The loop's flag, a gloo all-reduce before each iteration: once around the ring to reduce it, once to tell."""
    return ring_steps("all_reduce", processes) * cluster.host_hop_seconds


def timeline(
    events: Iterable[Event], cluster: Cluster, processes: int, batchnorm_processes: int
) -> tuple[Seconds, float]:
    """Run one micro-step's events through the three queues; flag and stragglers are not in it.

    Also returns by how much the host was ahead at its end: the device is busy so long without it.
    """
    scale = cluster.compute_scale * cluster.crowding(processes)
    shared_queue = batchnorm_processes == processes or cluster.cores_per_node is not None
    host = device = gradients_free = batchnorm_free = gradients = batchnorm = 0.0
    for event in events:
        if isinstance(event, Operation):
            host += scale * cluster.launch_seconds
            device = max(device, host) + scale * cluster.operation_seconds(event)
        elif isinstance(event, Collective) and event.cause == "batchnorm":
            seconds = cluster.seconds(event, batchnorm_processes)
            begun = max(device, gradients_free if shared_queue else batchnorm_free)
            batchnorm_free = begun + seconds
            gradients += begun - device
            batchnorm += seconds
            device = batchnorm_free
            if shared_queue:
                gradients_free = batchnorm_free
        elif isinstance(event, Collective):
            seconds = cluster.seconds(event, processes)
            gradients_free = max(gradients_free, device) + seconds
            if cluster.cores_per_node is not None:  # sending takes the core's time
                gradients += seconds
                device = gradients_free
    end = max(device, gradients_free)
    gradients += end - device
    ahead = 0.0 if cluster.cores_per_node is not None else end - host  # on a CPU the host is the device
    return Seconds(end - gradients - batchnorm, gradients, batchnorm, 0.0, 0.0), ahead


@dataclass(frozen=True)
class Timing:
    """One measured collective."""

    collective: Collective
    processes: int
    seconds: float


def fit(timings: Sequence[Timing]) -> Link:
    """The ring hop (latency, seconds per byte) that explains measured collectives best.

    Least squares of relative errors, so that microseconds count as much as seconds. Raises ValueError if two
    different sizes were not measured.
    """
    counted = [t for t in timings if t.processes > 1]
    hops = [ring_steps(t.collective.name, t.processes) / t.seconds for t in counted]
    sent = [ring_bytes(t.collective, t.processes) / t.seconds for t in counted]
    # Solve min sum (hops * latency + sent * per_byte - 1)^2: its normal equations.
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


def calibrated(cluster: Cluster, link: Link, hosts: int) -> Cluster:
    """`cluster` with a measured hop: within nodes if one host was measured, else everywhere."""
    fastest = min(cluster.transports, key=lambda t: t.between.seconds_per_byte)
    between = fastest.between if hosts == 1 else link
    return replace(cluster, transports=(Transport(0.0, link, between, trees=False),))


ASSUMED = Cluster(
    processes_per_node=8,
    transports=(
        Transport(10e-6, Link(0.9e-6, 1 / 75e9), Link(5e-6, 1 / 75e9), trees=True),
        Transport(15e-6, Link(3.4e-6, 1 / 300e9), Link(14e-6, 1 / 300e9), trees=True),
    ),
    bfloat16_flop_per_second=300e12,
    float32_flop_per_second=40e12,
    bytes_per_second=2.4e12,
    launch_seconds=23e-6,  # eager, seen on one H100: docs/scaling.md
    host_hop_seconds=30e-6,
    noise=2e-3,
)
"""Assumed, not measured: nodes of 8 H100-class GPUs, NVLink, one 400 Gb/s adapter per GPU, bfloat16. docs/scaling.md
gives the source of each number."""
