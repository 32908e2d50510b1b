"""Which collectives an engine adds to a G iteration, and when: DDP's buckets, DeepSpeed's ZeRO stages 1 and 2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from biggan.cost.scaling import Cause, Collective, CollectiveName, Event, GradientReady, MicroStep, ring_bytes
from biggan.distributed.zero import BUCKET_ELEMENTS

EngineName = Literal["ddp", "deepspeed"]

DDP_BUCKET_BYTES = (2**20, 25 * 2**20)
"""DistributedDataParallel closes its first bucket, and every other one, at these sizes."""
NORM_BYTES = 8
"""Of each parameter: the processes put the norms of its gradient's parts together, in float64."""
FLAG_BYTES = 8
"""The loop's one flag a step (stop, or no more data), an int64 reduced on the host."""


@dataclass(frozen=True)
class EngineSettings:
    """What reduces gradients: `ddp`, or `deepspeed` at ZeRO stage 1 or 2."""

    name: EngineName
    zero_stage: int = 0
    zero_bucket_elements: int = BUCKET_ELEMENTS

    def __str__(self) -> str:
        return "DDP" if self.name == "ddp" else f"ZeRO {self.zero_stage}"


ENGINES = (EngineSettings("ddp"), EngineSettings("deepspeed", 1), EngineSettings("deepspeed", 2))


def with_collectives(steps: Iterable[MicroStep], engine: EngineSettings, processes: int) -> list[MicroStep]:
    """`steps` with the engine's collectives among their events, in the order they are issued.

    DDP reduces a bucket once all its gradients are there, in the last micro-step. ZeRO (without `overlap_comm`,
    DeepSpeed's default) reduces after the backward pass, stage 1 in the last micro-step, stage 2 in every one, with
    all-reduces (`use_multi_rank_bucket_allreduce`, its default); then each process gathers the parameters that
    the others updated.
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
    closing = bucket_ends(sizes, *DDP_BUCKET_BYTES)
    events: list[Event] = []
    seen = begun = 0
    for event in step.events:
        events.append(event)
        if isinstance(event, GradientReady):
            seen += 1
            if seen in closing:
                events.append(Collective("all_reduce", sum(sizes[begun:seen]), "gradients"))
                begun = seen
    return tuple(events)


def bucket_ends(sizes: Sequence[int], first: int, cap: int) -> list[int]:
    """Numbers of gradients after which DDP closes a bucket: as soon as it holds `first` bytes, later `cap`."""
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
        # Stage 2 takes gradients as they come, stage 1 the parameters from first to last: about the reverse.
        order = gradients if engine.zero_stage == 2 else gradients[::-1]
        reductions = [Collective("all_reduce", b, "gradients") for b in _zero_buckets(order, engine)]
    gathers: list[Event] = []
    if step.boundary:
        reductions.append(Collective("all_reduce", NORM_BYTES * len(gradients), "gradients"))
        gathers = [Collective("all_gather", 4 * partition_elements(sum(gradients) // 4, processes), "parameters")]
    backward, update = step.events[: last_gradient + 1], step.events[last_gradient + 1 :]
    return (*backward, *reductions, *update, *gathers)


def _zero_buckets(gradients: Iterable[int], engine: EngineSettings) -> list[int]:
    """Bytes of each reduction: a bucket is sent before the gradient that would overfill it."""
    buckets = [0]
    for size in gradients:
        if buckets[-1] and buckets[-1] + size > 4 * engine.zero_bucket_elements:
            buckets.append(0)
        buckets[-1] += size
    return buckets


def partition_elements(parameters: int, processes: int) -> int:
    """Elements of the flat partition each process owns: all parameters, padded to a multiple of 2 N, over N."""
    return 2 * -(-parameters // (2 * processes))


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in a G iteration, one process."""

    cause: Cause
    name: CollectiveName
    count: int
    input_bytes: int
    sent_bytes: float
    """In a ring."""


def traffic(steps: Iterable[MicroStep], processes: int, batchnorm_processes: int) -> list[Traffic]:
    """Count the collectives in `steps` (as `with_collectives` gives them), and the loop's flag."""
    found: dict[tuple[Cause, CollectiveName], list[tuple[Collective, int]]] = {}
    for step in steps:
        for event in step.events:
            if isinstance(event, Collective):
                found.setdefault((event.cause, event.name), []).append((event, step.repeats))
    if processes > 1:
        found["host flag", "all_reduce"] = [(Collective("all_reduce", FLAG_BYTES, "host flag"), 1)]
    rows = []
    for (cause, name), events in found.items():
        peers = batchnorm_processes if cause == "batchnorm" else processes
        if peers > 1:
            count, total = sum(n for _, n in events), sum(e.bytes * n for e, n in events)
            rows.append(Traffic(cause, name, count, total, sum(ring_bytes(e, peers) * n for e, n in events)))
    return rows
