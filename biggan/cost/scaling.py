"""Predict the time of a G iteration on N processes with a latency-bandwidth model. Pure arithmetic.

A process has three queues: the host launches operations in order, the device runs them in order, and the network
runs collectives in order. `trace` records their entries; `Cluster` has the costs. docs/scaling.md explains the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

CollectiveName = Literal["all_reduce", "all_gather"]
Cause = Literal["gradients", "parameters", "batchnorm", "host flag"]


@dataclass(frozen=True)
class Operation:
    """One kernel: its FLOP (a multiply-add counts as 2), their precision, and the bytes it reads and writes."""

    flop: int
    bytes: int
    float32: bool = False


@dataclass(frozen=True)
class GradientReady:
    """Event: the backward pass has finished the gradient of one parameter, of `bytes` bytes."""

    bytes: int


@dataclass(frozen=True)
class Collective:
    """One collective. `bytes`: each process's input, i.e. the tensor of an all-reduce, one row of an all-gather."""

    name: CollectiveName
    bytes: int
    cause: Cause


Event = Operation | GradientReady | Collective


@dataclass(frozen=True)
class MicroStep:
    """Forward and backward pass of one micro-batch, `repeats` times per G iteration, on average.

    `boundary`: the optimizer updates the weights at its end.
    """

    events: tuple[Event, ...]
    repeats: float
    boundary: bool


@dataclass(frozen=True)
class Link:
    """Cost of one hop: latency in seconds, and seconds per byte."""

    seconds: float
    seconds_per_byte: float


@dataclass(frozen=True)
class Transport:
    """One communication protocol: a constant per collective, hops within a node and between nodes.

    `between.seconds_per_byte` is that of all adapters of a node together. `trees`: all-reduces may use a tree as well
    as a ring.
    """

    base_seconds: float
    within: Link
    between: Link
    trees: bool


@dataclass(frozen=True)
class Cluster:
    """Machines: the cost of computing, of communication, and of waiting for slower processes."""

    processes_per_node: int
    transports: tuple[Transport, ...]
    """Available protocols. A collective uses the fastest one for its size."""
    bfloat16_flop_per_second: float
    """Rate that convolutions and matrix products reach in bfloat16, each process."""
    float32_flop_per_second: float
    """Rate that they reach in float32, each process."""
    bytes_per_second: float
    """Bandwidth that memory-bound operations reach, each process."""
    launch_seconds: float
    """Time the host needs to launch one operation."""
    host_hop_seconds: float
    """Time of one hop of a few bytes in gloo's rings, from CPU to CPU over TCP."""
    noise: float
    """Standard deviation, in seconds, of one process's time for one second of work without waiting. It grows with the
    square root of time."""
    cores_per_node: int | None = None
    """Number of cores that the processes of a node, and networking, share. None: each process has its own device, and
    the network works in parallel to it."""
    compute_scale: float = 1.0
    """Ratio of measured to modelled seconds of a step on one process."""

    def operation_seconds(self, operation: Operation) -> float:
        """Return the seconds of one operation: the larger of arithmetic and memory time (roofline)."""
        rate = self.float32_flop_per_second if operation.float32 else self.bfloat16_flop_per_second
        return max(operation.flop / rate, operation.bytes / self.bytes_per_second)

    def processes_per_core(self, processes: int) -> float:
        """Return the number of processes that share one core; 1.0 if each has its own."""
        on_one_node = min(processes, self.processes_per_node)
        return 1.0 if self.cores_per_node is None else max(1.0, on_one_node / self.cores_per_node)

    def seconds(self, collective: Collective, processes: int) -> float:
        """Return the seconds of one collective over `processes` neighbouring processes; 0 for one process."""
        if processes == 1:
            return 0.0
        nodes = math.ceil(processes / self.processes_per_node)
        options = [(ring_seconds, t) for t in self.transports]
        if collective.name == "all_reduce":
            options += [(tree_seconds, t) for t in self.transports if t.trees]
        return min(t.base_seconds + algorithm(collective, processes, nodes, t) for algorithm, t in options)


def ring_steps(name: CollectiveName, processes: int) -> int:
    """Return the sequential hops around a ring: N - 1 for an all-gather, twice that for an all-reduce."""
    return (processes - 1) * (2 if name == "all_reduce" else 1)


def ring_sent_bytes(collective: Collective, processes: int) -> float:
    """Return the bytes each process sends in a ring.

    2 S (N - 1) / N for an all-reduce of S bytes, s (N - 1) for an all-gather of rows of s bytes.
    """
    chunk = collective.bytes / processes if collective.name == "all_reduce" else collective.bytes
    return ring_steps(collective.name, processes) * chunk


def ring_seconds(collective: Collective, processes: int, nodes: int, transport: Transport) -> float:
    """Return the seconds of a ring that visits every node once: hop latencies plus bytes over the slowest link."""
    steps = ring_steps(collective.name, processes)
    between = ring_steps(collective.name, nodes)
    slowest = max(link.seconds_per_byte for link in links_used(transport, nodes))
    latency = (steps - between) * transport.within.seconds + between * transport.between.seconds
    return latency + ring_sent_bytes(collective, processes) * slowest


def tree_seconds(collective: Collective, processes: int, nodes: int, transport: Transport) -> float:
    """Return the seconds of an all-reduce over a chain in each node and a binary tree over nodes, up and down.

    Every byte moves twice.
    """
    slowest = max(link.seconds_per_byte for link in links_used(transport, nodes))
    within = math.ceil(processes / nodes) - 1
    latency = within * transport.within.seconds + math.ceil(math.log2(nodes)) * transport.between.seconds
    return 2 * (latency + collective.bytes * slowest)


def links_used(transport: Transport, nodes: int) -> tuple[Link, ...]:
    """Return the links used by a collective over `nodes` nodes."""
    return (transport.within,) if nodes == 1 else (transport.within, transport.between)


@dataclass(frozen=True)
class Seconds:
    """Seconds of one G iteration, by cause."""

    compute: float
    gradients: float
    """Reducing gradients and gathering updated parameters, as far as it does not overlap with computing."""
    batchnorm: float
    host_flag: float
    """The training loop's flag, as far as the device is idle meanwhile."""
    straggler: float
    """Waiting for the slowest process: of the group at each BatchNorm collective, of all at each optimizer step."""

    @property
    def total(self) -> float:
        """Return the seconds of the whole iteration."""
        return self.compute + self.gradients + self.batchnorm + self.host_flag + self.straggler


def predict(steps: Sequence[MicroStep], cluster: Cluster, processes: int, batchnorm_processes: int) -> Seconds:
    """Predict the seconds of a G iteration. `steps` include the collectives of `engine_cost.with_collectives`.

    `batchnorm_processes` neighbouring processes share BatchNorm statistics. If these are all processes, their messages
    queue behind gradients (one communicator). Smaller groups have their own queue.
    """
    compute = gradients = batchnorm = ahead = 0.0
    synchronizations = updates = 0.0
    for step in steps:
        spent, ahead = timeline(step.events, cluster, processes, batchnorm_processes)
        compute += spent.compute * step.repeats
        gradients += spent.gradients * step.repeats
        batchnorm += spent.batchnorm * step.repeats
        collectives = sum(isinstance(e, Collective) and e.cause == "batchnorm" for e in step.events)
        updates += step.repeats * step.boundary
        synchronizations += step.repeats * (step.boundary + collectives)
    counts = round(synchronizations), round(updates)
    waiting = straggler_wait(compute, cluster.noise, *counts, processes, batchnorm_processes)
    host_flag = max(0.0, flag_seconds(cluster, processes) - ahead)
    return Seconds(compute, gradients, batchnorm, host_flag, waiting)


def flag_seconds(cluster: Cluster, processes: int) -> float:
    """Return the seconds of the training loop's flag, a gloo all-reduce before each iteration.

    It goes around the ring twice: once to reduce, once to distribute the result.
    """
    return ring_steps("all_reduce", processes) * cluster.host_hop_seconds


def timeline(
    events: Iterable[Event], cluster: Cluster, processes: int, batchnorm_processes: int
) -> tuple[Seconds, float]:
    """Run one micro-step's events through the three queues. Return its seconds, without flag and stragglers.

    Also return the seconds that the host is ahead at the end: the device stays busy that long without the host.
    """
    scale = cluster.compute_scale * cluster.processes_per_core(processes)
    shared_queue = batchnorm_processes == processes or cluster.cores_per_node is not None
    host = device = gradients_free = batchnorm_free = gradients = batchnorm = 0.0
    for event in events:
        if isinstance(event, Operation):
            host += scale * cluster.launch_seconds
            device = max(device, host) + scale * cluster.operation_seconds(event)
        elif isinstance(event, Collective) and event.cause == "batchnorm":
            seconds = cluster.seconds(event, batchnorm_processes)
            start = max(device, gradients_free if shared_queue else batchnorm_free)
            batchnorm_free = start + seconds
            gradients += start - device
            batchnorm += seconds
            device = batchnorm_free
            if shared_queue:
                gradients_free = batchnorm_free
        elif isinstance(event, Collective):
            seconds = cluster.seconds(event, processes)
            gradients_free = max(gradients_free, device) + seconds
            if cluster.cores_per_node is not None:  # sending uses the core
                gradients += seconds
                device = gradients_free
    end = max(device, gradients_free)
    gradients += end - device
    ahead = 0.0 if cluster.cores_per_node is not None else end - host  # on a CPU the host is the device
    return Seconds(end - gradients - batchnorm, gradients, batchnorm, 0.0, 0.0), ahead


def straggler_wait(
    compute_seconds: float, noise: float, synchronizations: int, updates: int, processes: int, group: int
) -> float:
    """Return the expected seconds that processes wait for slower ones in a G iteration.

    The `synchronizations` are evenly spread. `updates` of them synchronize all processes, the others the `group`
    processes that share BatchNorm statistics. Each interval has independent noise of deviation
    noise * sqrt(compute / synchronizations). At each synchronization a group waits for the mean of the largest of its
    draws: in total sqrt(synchronizations) times the cost of a single one. Meanwhile groups drift apart, each by the
    deviation of that largest draw, and an update waits for the slowest group. A single group of all processes does not
    drift. Groups of one process synchronize at updates only. docs/scaling.md derives this.
    """
    mean, deviation = largest_normal(group)
    slowest_group, _ = largest_normal(processes // group)
    total = math.sqrt(synchronizations) * mean + math.sqrt(updates) * deviation * slowest_group
    return noise * math.sqrt(compute_seconds) * total


def largest_normal(n: int) -> tuple[float, float]:
    """Return the mean and standard deviation of the largest of `n` independent standard normal values.

    (0, 1) for one, (0.56, 0.83) for two, (3.44, 0.33) for 2,048.
    """
    if n == 1:
        return 0.0, 1.0
    # With F = P(max < x): E[max] is 8 - integral of F, E[max^2] is 64 - integral of 2 x F, from -8 to 8.
    normal, step = NormalDist(), 1 / 64
    edges = [k * step for k in range(-8 * 64, 8 * 64 + 1)]
    below = [(x, normal.cdf(x) ** n) for x in edges]
    mean = 8 - sum((a + b) / 2 * step for (_, a), (_, b) in pairwise(below))
    square = 64 - sum((x * a + y * b) * step for (x, a), (y, b) in pairwise(below))
    return mean, math.sqrt(square - mean**2)


ASSUMED = Cluster(
    processes_per_node=8,
    transports=(
        Transport(10e-6, Link(0.9e-6, 1 / 75e9), Link(5e-6, 1 / 75e9), trees=True),
        Transport(15e-6, Link(3.4e-6, 1 / 300e9), Link(14e-6, 1 / 300e9), trees=True),
    ),
    bfloat16_flop_per_second=300e12,
    float32_flop_per_second=40e12,
    bytes_per_second=2.4e12,
    launch_seconds=23e-6,  # measured on one H100, eager: docs/scaling.md
    host_hop_seconds=30e-6,
    noise=2e-3,
)
"""Assumed cluster, not measured: nodes of 8 H100-class GPUs, NVLink, one 400 Gb/s adapter per GPU, bfloat16.
docs/scaling.md gives the source of each number."""
