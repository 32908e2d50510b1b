"""Measurements of the network: results and speed of the collectives that training uses, clocks, links, stragglers.

All ranks must call each function together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from pydantic import BaseModel
from torch import Tensor

from biggan.distributed.collectives import all_gather_rows
from biggan.distributed.process import Process, join
from biggan.doctor.rank_store import Heartbeat

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
"""Data types of gradients, BatchNorm statistics, reduced-precision gradients and flags."""
REDUCED_BYTES = (4, 4 * 2**10, 64 * 2**10, 2**20, 16 * 2**20, 64 * 2**20)
GATHERED_BYTES = (4, 4 * 2**10, 64 * 2**10)
"""Bytes of each rank's input. BatchNorm gathers 2 C + 1 numbers per layer: a few KiB."""
MEASURE_SECONDS = 2.0
"""Approximate total time of the repeats of one size."""
LEAST_REPEATS, MOST_REPEATS = 3, 100
LINK_BYTES = 4 * 2**20
CLOCK_ROUNDS = 8


class CollectiveTiming(BaseModel):
    """Median seconds of one collective of `bytes` (each rank's input, for an all_gather)."""

    operation: str
    bytes: int
    seconds: float


class Clock(BaseModel):
    """Seconds by which a host's clock is ahead of rank 0's, accurate to half the round trip."""

    rank: int
    ahead_seconds: float
    round_trip_seconds: float


class LinkTiming(BaseModel):
    """Median seconds of one message between two hosts: half of a round trip."""

    ranks: tuple[int, int]
    bytes: int
    seconds: float


class NetworkFacts(BaseModel):
    """Measurements of one rank. If `error` is set, only those made before it."""

    error: str = ""
    backend: str = ""
    wrong: list[str] = []
    """Collectives whose results differ from the known ones."""
    collectives: list[CollectiveTiming] = []
    clocks: list[Clock] = []
    """Filled on rank 0 only."""
    links: list[LinkTiming] = []
    """Links measured from this rank."""
    matmul_seconds: float = 0.0


def measure(facts: NetworkFacts, leaders: list[int], timeout_seconds: int, heartbeat: Heartbeat) -> None:
    """Join the process group, then fill in `facts` step by step. `leaders`: first rank of each host, ascending."""
    heartbeat.beat("joining the process group (all ranks connect to each other)")
    with join(timeout_seconds) as process:
        facts.backend = "nccl" if process.device.type == "cuda" else "gloo"
        check_results(facts, process, heartbeat)
        for size in REDUCED_BYTES:
            facts.collectives.append(_all_reduce(size, process, heartbeat))
        for size in GATHERED_BYTES:
            facts.collectives.append(_all_gather(size, process, heartbeat))
        facts.clocks = compare_clocks(leaders, process, heartbeat)
        facts.links = time_links(leaders, process, heartbeat)
        facts.matmul_seconds = time_matmul(process, heartbeat)
        heartbeat.beat("leaving the process group")


def check_results(facts: NetworkFacts, process: Process, heartbeat: Heartbeat) -> None:
    """Compare results with known ones. Each number comes from one rank, so a lost or doubled one is detected."""
    assert process.group is not None
    for dtype in DTYPES:
        index = torch.arange(max(1000, process.world_size), device=process.device)
        known = (index % 5 + 1).to(dtype)
        mine = torch.where(index % process.world_size == process.rank, known, 0)
        heartbeat.beat(f"all-reduce of {dtype}")
        dist.all_reduce(mine, group=process.group)
        if not torch.equal(mine, known):
            facts.wrong.append(f"all_reduce of {str(dtype).removeprefix('torch.')}")
        heartbeat.beat(f"all-gather of {dtype}")
        rows = all_gather_rows(known + process.rank % 7, process.group)
        ranks = torch.arange(process.world_size, device=process.device)
        if not torch.equal(rows, (known + (ranks % 7).to(dtype).unsqueeze(1))):
            facts.wrong.append(f"all_gather of {str(dtype).removeprefix('torch.')}")


def _all_reduce(size: int, process: Process, heartbeat: Heartbeat) -> CollectiveTiming:
    x = torch.zeros(size // 4, device=process.device)
    seconds = median_seconds(
        lambda: dist.all_reduce(x, group=process.group), process, heartbeat, f"all-reduce of {size} B"
    )
    return CollectiveTiming(operation="all_reduce", bytes=size, seconds=seconds)


def _all_gather(size: int, process: Process, heartbeat: Heartbeat) -> CollectiveTiming:
    group = process.group
    assert group is not None
    x = torch.zeros(size // 4, device=process.device)
    seconds = median_seconds(lambda: all_gather_rows(x, group).add(0), process, heartbeat, f"all-gather of {size} B")
    return CollectiveTiming(operation="all_gather", bytes=size, seconds=seconds)


def median_seconds(call: Callable[[], object], process: Process, heartbeat: Heartbeat, name: str) -> float:
    """Return the median seconds of a collective on this rank.

    The number of repeats follows from the slowest rank's time, so it is equal on all ranks.
    """
    heartbeat.beat(name)
    call()  # the first call also opens connections
    slowest = max(process.gather(_seconds(call, process.device)))
    repeats = min(max(int(MEASURE_SECONDS / slowest), LEAST_REPEATS), MOST_REPEATS)
    times = []
    for _ in range(repeats):
        heartbeat.beat(name)
        times.append(_seconds(call, process.device))
    return statistics.median(times)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    begin = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - begin


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare_clocks(leaders: list[int], process: Process, heartbeat: Heartbeat) -> list[Clock]:
    """Ask one rank of each other host for the time. Keep the round with the shortest round trip."""
    clocks = []
    for peer in leaders:
        if peer == 0 or process.rank not in (0, peer):
            continue
        heartbeat.beat(f"comparing clocks with rank {0 if process.rank == peer else peer}")
        now = torch.zeros((), dtype=torch.float64)
        rounds = []
        for _ in range(CLOCK_ROUNDS):
            if process.rank == peer:
                dist.recv(now, 0)
                dist.send(now.fill_(time.time()), 0)
                continue
            begin, sent = time.perf_counter(), time.time()
            dist.send(now, peer)
            dist.recv(now, peer)
            round_trip = time.perf_counter() - begin
            rounds.append((round_trip, now.item() - (sent + round_trip / 2)))
        if rounds:
            round_trip, ahead = min(rounds)
            clocks.append(Clock(rank=peer, ahead_seconds=ahead, round_trip_seconds=round_trip))
    process.barrier()
    return clocks


def time_links(leaders: list[int], process: Process, heartbeat: Heartbeat) -> list[LinkTiming]:
    """Time a message between neighbouring hosts, there and back, one pair after another."""
    links = []
    pairs = [(leaders[k - 1], leaders[k]) for k in range(1, len(leaders))]
    if len(leaders) > 2:
        pairs.append((leaders[-1], leaders[0]))
    for first, second in pairs:
        if process.rank in (first, second):
            heartbeat.beat(f"exchanging a message between ranks {first} and {second}")
            x = torch.zeros(LINK_BYTES // 4, device=process.device)
            times = [_seconds(lambda: _round_trip(x, first, second, process), process.device) for _ in range(4)]  # noqa: B023
            if process.rank == first:
                links.append(
                    LinkTiming(ranks=(first, second), bytes=LINK_BYTES, seconds=statistics.median(times[1:]) / 2)
                )
        heartbeat.beat("waiting for the other hosts' links")
        process.barrier()
    return links


def _round_trip(x: Tensor, first: int, second: int, process: Process) -> None:
    if process.rank == first:
        dist.send(x, second)
        dist.recv(x, second)
    else:
        dist.recv(x, first)
        dist.send(x, first)


def time_matmul(process: Process, heartbeat: Heartbeat) -> float:
    """Return the median seconds of the same matrix product, run on all ranks at once."""
    n = 8192 if process.device.type == "cuda" else 1024
    heartbeat.beat(f"{n} x {n} matrix product")
    x = torch.ones(n, n, device=process.device)
    _seconds(lambda: x @ x, process.device)
    process.barrier()
    return statistics.median(_seconds(lambda: x @ x, process.device) for _ in range(7))


def slowest_timings(facts: Mapping[int, NetworkFacts]) -> list[CollectiveTiming]:
    """Return each collective's timing on its slowest rank, for the collectives that all ranks measured."""
    shared = zip(*(f.collectives for _, f in sorted(facts.items())), strict=False)
    return [max(same, key=lambda c: c.seconds) for same in shared]
