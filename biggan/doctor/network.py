"""The collectives as training uses them: are they right, and how fast? Also clocks, links and stragglers.

Every function here is called by all ranks together.
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
from biggan.doctor.board import Pulse

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64)
"""Gradients, BatchNorm's statistics, reduced-precision gradients, flags."""
REDUCED_BYTES = (4, 4 * 2**10, 64 * 2**10, 2**20, 16 * 2**20, 64 * 2**20)
GATHERED_BYTES = (4, 4 * 2**10, 64 * 2**10)
"""Of each rank. BatchNorm gathers 2 C + 1 numbers per layer: a few KiB."""
MEASURE_SECONDS = 2.0
"""Repeats of one size take about so long in all."""
LEAST_REPEATS, MOST_REPEATS = 3, 100
LINK_BYTES = 4 * 2**20
CLOCK_ROUNDS = 8


class CollectiveTiming(BaseModel):
    """Median seconds of one collective of `bytes` (of each rank, in an all_gather)."""

    operation: str
    bytes: int
    seconds: float


class Clock(BaseModel):
    """How far a host's clock is ahead of rank 0's, known to half the round trip."""

    rank: int
    ahead_seconds: float
    round_trip_seconds: float


class LinkTiming(BaseModel):
    """Median seconds of one message between two hosts, there and back, halved."""

    ranks: tuple[int, int]
    bytes: int
    seconds: float


class NetworkFacts(BaseModel):
    """What one rank measured; as far as it came, if `error` says why it ended."""

    error: str = ""
    backend: str = ""
    wrong: list[str] = []
    """Results that are not the known ones."""
    collectives: list[CollectiveTiming] = []
    clocks: list[Clock] = []
    """On rank 0."""
    links: list[LinkTiming] = []
    """Those this rank began."""
    matmul_seconds: float = 0.0


def measure(facts: NetworkFacts, leaders: list[int], timeout_seconds: int, pulse: Pulse) -> None:
    """Join, then fill in `facts` step by step; `leaders` are the first ranks of the hosts, ascending."""
    pulse.beat("joining the process group (ranks connect to each other)")
    with join(timeout_seconds) as process:
        facts.backend = "nccl" if process.device.type == "cuda" else "gloo"
        check_results(facts, process, pulse)
        for size in REDUCED_BYTES:
            facts.collectives.append(_all_reduce(size, process, pulse))
        for size in GATHERED_BYTES:
            facts.collectives.append(_all_gather(size, process, pulse))
        facts.clocks = compare_clocks(leaders, process, pulse)
        facts.links = time_links(leaders, process, pulse)
        facts.matmul_seconds = time_matmul(process, pulse)
        pulse.beat("leaving the process group")


def check_results(facts: NetworkFacts, process: Process, pulse: Pulse) -> None:
    """Compare results with known ones: each number comes from one rank, so that a lost or doubled one shows."""
    assert process.group is not None
    for dtype in DTYPES:
        index = torch.arange(max(1000, process.world_size), device=process.device)
        known = (index % 5 + 1).to(dtype)
        mine = torch.where(index % process.world_size == process.rank, known, 0)
        pulse.beat(f"an all-reduce of {dtype}")
        dist.all_reduce(mine, group=process.group)
        if not torch.equal(mine, known):
            facts.wrong.append(f"all_reduce of {str(dtype).removeprefix('torch.')}")
        pulse.beat(f"an all-gather of {dtype}")
        rows = all_gather_rows(known + process.rank % 7, process.group)
        ranks = torch.arange(process.world_size, device=process.device)
        if not torch.equal(rows, (known + (ranks % 7).to(dtype).unsqueeze(1))):
            facts.wrong.append(f"all_gather of {str(dtype).removeprefix('torch.')}")


def _all_reduce(size: int, process: Process, pulse: Pulse) -> CollectiveTiming:
    x = torch.zeros(size // 4, device=process.device)
    seconds = median_seconds(lambda: dist.all_reduce(x, group=process.group), process, pulse, f"all-reduce of {size} B")
    return CollectiveTiming(operation="all_reduce", bytes=size, seconds=seconds)


def _all_gather(size: int, process: Process, pulse: Pulse) -> CollectiveTiming:
    group = process.group
    assert group is not None
    x = torch.zeros(size // 4, device=process.device)
    seconds = median_seconds(lambda: all_gather_rows(x, group).add(0), process, pulse, f"all-gather of {size} B")
    return CollectiveTiming(operation="all_gather", bytes=size, seconds=seconds)


def median_seconds(call: Callable[[], object], process: Process, pulse: Pulse, name: str) -> float:
    """Median time of a collective on this rank; as many repeats as its speed allows, the same on all ranks."""
    pulse.beat(name)
    call()  # the first one also makes connections
    slowest = max(process.gather(_seconds(call, process.device)))
    repeats = min(max(int(MEASURE_SECONDS / slowest), LEAST_REPEATS), MOST_REPEATS)
    times = []
    for _ in range(repeats):
        pulse.beat(name)
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


def compare_clocks(leaders: list[int], process: Process, pulse: Pulse) -> list[Clock]:
    """Ask one rank of each other host for the time; of several rounds the one with the shortest round trip."""
    clocks = []
    for peer in leaders:
        if peer == 0 or process.rank not in (0, peer):
            continue
        pulse.beat(f"comparing clocks with rank {0 if process.rank == peer else peer}")
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


def time_links(leaders: list[int], process: Process, pulse: Pulse) -> list[LinkTiming]:
    """Send a message to and fro between neighbouring hosts, one pair after the other."""
    links = []
    pairs = [(leaders[k - 1], leaders[k]) for k in range(1, len(leaders))]
    if len(leaders) > 2:
        pairs.append((leaders[-1], leaders[0]))
    for first, second in pairs:
        if process.rank in (first, second):
            pulse.beat(f"sending to and fro between ranks {first} and {second}")
            x = torch.zeros(LINK_BYTES // 4, device=process.device)
            times = [_seconds(lambda: _to_and_fro(x, first, second, process), process.device) for _ in range(4)]  # noqa: B023
            if process.rank == first:
                links.append(
                    LinkTiming(ranks=(first, second), bytes=LINK_BYTES, seconds=statistics.median(times[1:]) / 2)
                )
        pulse.beat("waiting for the other hosts' links")
        process.barrier()
    return links


def _to_and_fro(x: Tensor, first: int, second: int, process: Process) -> None:
    if process.rank == first:
        dist.send(x, second)
        dist.recv(x, second)
    else:
        dist.recv(x, first)
        dist.send(x, first)


def time_matmul(process: Process, pulse: Pulse) -> float:
    """Median time of the same product on every rank, all at once."""
    n = 8192 if process.device.type == "cuda" else 1024
    pulse.beat(f"a {n} x {n} matrix product")
    x = torch.ones(n, n, device=process.device)
    _seconds(lambda: x @ x, process.device)
    process.barrier()
    return statistics.median(_seconds(lambda: x @ x, process.device) for _ in range(7))


def slowest(facts: Mapping[int, NetworkFacts]) -> list[CollectiveTiming]:
    """Each collective's median on the rank where it took longest, of those all ranks came to."""
    shared = zip(*(f.collectives for _, f in sorted(facts.items())), strict=False)
    return [max(same, key=lambda c: c.seconds) for same in shared]
