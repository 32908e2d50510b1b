"""Collectives and memory of each engine in a G iteration: DDP, and DeepSpeed's ZeRO stages 1 and 2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

from biggan.cost.scaling import Cause, Collective, CollectiveName, Event, GradientReady, MicroStep, ring_sent_bytes
from biggan.distributed.zero import BUCKET_ELEMENTS

EngineName = Literal["ddp", "deepspeed"]

DDP_BUCKET_BYTES = (2**20, 25 * 2**20)
"""Sizes at which DistributedDataParallel closes its first bucket, and every later one."""
NORM_BYTES = 8
"""Bytes per parameter of ZeRO's norm all-reduce: one float64 per gradient."""
FLAG_BYTES = 8
"""Bytes of the training loop's flag (stop, or no more data): one int64 per step, reduced on the host."""


@dataclass(frozen=True)
class EngineSettings:
    """Engine that reduces gradients: `ddp`, or `deepspeed` with ZeRO stage 1 or 2."""

    name: EngineName
    zero_stage: int = 0
    zero_bucket_elements: int = BUCKET_ELEMENTS

    def __str__(self) -> str:
        return "DDP" if self.name == "ddp" else f"ZeRO {self.zero_stage}"


ENGINES = (EngineSettings("ddp"), EngineSettings("deepspeed", 1), EngineSettings("deepspeed", 2))


def with_collectives(steps: Iterable[MicroStep], engine: EngineSettings, processes: int) -> list[MicroStep]:
    """Return `steps` with the engine's collectives inserted among their events, in the order they are issued.

    DDP reduces a bucket once all its gradients are ready, in the last micro-step. ZeRO (without `overlap_comm`, as by
    DeepSpeed's default) reduces after the backward pass: stage 1 in the last micro-step, stage 2 in every one. It uses
    all-reduces (`use_multi_rank_bucket_allreduce`, its default). Then each process gathers the parameters that the
    others updated. On one process all collectives are removed.
    """
    if processes == 1:
        return [replace(step, events=tuple(e for e in step.events if not isinstance(e, Collective))) for step in steps]
    if engine.name == "ddp":
        return [replace(step, events=_ddp(step)) for step in steps]
    return [replace(step, events=_zero(step, engine, processes)) for step in steps]


def _ddp(step: MicroStep) -> tuple[Event, ...]:
    if not step.boundary:
        return step.events
    sizes = [e.bytes for e in step.events if isinstance(e, GradientReady)]
    ends = bucket_ends(sizes, *DDP_BUCKET_BYTES)
    events: list[Event] = []
    ready = bucket_start = 0
    for event in step.events:
        events.append(event)
        if isinstance(event, GradientReady):
            ready += 1
            if ready in ends:
                events.append(Collective("all_reduce", sum(sizes[bucket_start:ready]), "gradients"))
                bucket_start = ready
    return tuple(events)


def bucket_ends(sizes: Sequence[int], first: int, cap: int) -> list[int]:
    """Return the gradient counts after which DDP closes a bucket.

    The first bucket closes once it holds `first` bytes, every later one once it holds `cap` bytes.
    """
    ends, held, limit = [], 0, first
    for count, size in enumerate(sizes, start=1):
        held += size
        if held >= limit or count == len(sizes):
            ends.append(count)
            held, limit = 0, cap
    return ends


def _zero(step: MicroStep, engine: EngineSettings, processes: int) -> tuple[Event, ...]:
    gradients = [e.bytes for e in step.events if isinstance(e, GradientReady)]
    last_gradient = max(k for k, e in enumerate(step.events) if isinstance(e, GradientReady))
    reductions: list[Event] = []
    if step.boundary or engine.zero_stage == 2:
        # Stage 2 reduces gradients as they become ready, stage 1 from the first parameter to the last: about reversed.
        order = gradients if engine.zero_stage == 2 else gradients[::-1]
        reductions = [Collective("all_reduce", b, "gradients") for b in _zero_buckets(order, engine)]
    gathers: list[Event] = []
    if step.boundary:
        reductions.append(Collective("all_reduce", NORM_BYTES * len(gradients), "gradients"))
        gathers = [Collective("all_gather", 4 * partition_elements(sum(gradients) // 4, processes), "parameters")]
    backward, update = step.events[: last_gradient + 1], step.events[last_gradient + 1 :]
    return (*backward, *reductions, *update, *gathers)


def _zero_buckets(gradients: Iterable[int], engine: EngineSettings) -> list[int]:
    """Return the bytes of each reduction. A bucket is sent before the gradient that would overfill it."""
    buckets = [0]
    for size in gradients:
        if buckets[-1] and buckets[-1] + size > 4 * engine.zero_bucket_elements:
            buckets.append(0)
        buckets[-1] += size
    return buckets


def partition_elements(parameters: int, processes: int) -> int:
    """Return the elements of the flat partition each process owns: all parameters, padded to a multiple of 2 N, / N."""
    return 2 * -(-parameters // (2 * processes))


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in a G iteration of one process."""

    cause: Cause
    name: CollectiveName
    count: int
    input_bytes: int
    sent_bytes: float
    """Bytes sent in a ring."""


def traffic(steps: Iterable[MicroStep], processes: int, batchnorm_processes: int) -> list[Traffic]:
    """Count the collectives in `steps` (as returned by `with_collectives`), and the training loop's flag."""
    collectives: dict[tuple[Cause, CollectiveName], list[tuple[Collective, float]]] = {}
    for step in steps:
        for event in step.events:
            if isinstance(event, Collective):
                collectives.setdefault((event.cause, event.name), []).append((event, step.repeats))
    if processes > 1:
        collectives["host flag", "all_reduce"] = [(Collective("all_reduce", FLAG_BYTES, "host flag"), 1)]
    rows = []
    for (cause, name), events in collectives.items():
        peers = batchnorm_processes if cause == "batchnorm" else processes
        if peers > 1:
            count, total = round(sum(n for _, n in events)), round(sum(e.bytes * n for e, n in events))
            rows.append(Traffic(cause, name, count, total, sum(ring_sent_bytes(e, peers) * n for e, n in events)))
    return rows


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its peak, without the allocator's overhead and workspaces."""

    weights: int
    gradients: int
    """Gradients, with the buckets or buffers they are reduced in."""
    optimizer: int
    """Adam's two moments and, under ZeRO, the float32 master copy of the process's partition."""
    ema: int
    activations: int

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(astuple(self))


def memory(
    g_parameters: int, d_parameters: int, activation_bytes: int, engine: EngineSettings, processes: int
) -> Memory:
    """Return the memory of both networks under one engine. Weights are float32 in either precision.

    A single process has no engine, and frees the gradients of one network before it computes the other's. DDP keeps
    the gradients of both networks in its buckets permanently. ZeRO keeps all parameters in one flat buffer, and the
    master copy and moments of one partition. The gradients of the current network pass through a buffer of
    `zero_bucket_elements` (fully allocated) into the partition, and are copied into the flat tensor that Adam reads.
    Before that, stage 1 holds all gradients, stage 2 only those in the buffer.
    """
    networks = (g_parameters, d_parameters)
    partitions = [partition_elements(p, processes) for p in networks]
    largest, partition = max(networks), max(partitions)
    if processes == 1:
        weights, gradients, optimizer = sum(networks), largest, 2 * sum(networks)
    elif engine.name == "ddp":
        weights, gradients, optimizer = sum(networks), sum(networks), 2 * sum(networks)
    else:
        weights, optimizer = sum(partitions) * processes, 3 * sum(partitions)
        gradients = engine.zero_bucket_elements + partition + max(partition, largest if engine.zero_stage == 1 else 0)
    return Memory(4 * weights, 4 * gradients, 4 * optimizer, 4 * g_parameters, activation_bytes)
