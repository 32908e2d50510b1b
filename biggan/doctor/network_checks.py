"""Did all ranks come, do they reach each other, and which is slow? Pure functions of what they measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from biggan.doctor.check import Check, Status, name_ranks, not_reached, some
from biggan.doctor.host import HostFacts
from biggan.doctor.network import CollectiveTiming, NetworkFacts, slowest
from biggan.doctor.rank_agreement import hosts_of

SKEW_WARN_SECONDS = 1.0
SKEW_FAIL_SECONDS = 10.0
"""torchrun's c10d rendezvous takes a node for dead whose heartbeat looks 15 s old by another node's clock."""
SLOW_RATIO = 1.5
"""Of a rank's time, or a link's, to the median: more than this is named."""


@dataclass(frozen=True)
class Lost:
    """Ranks that did not answer in time, and what they were waited for at."""

    ranks: tuple[int, ...]
    at: str


def known_hosts(facts: Mapping[int, HostFacts], world_size: int) -> dict[int, str]:
    """The host of each rank that answered, and of each whose neighbours did: torchrun numbers node by node."""
    hosts = hosts_of(facts)
    for rank, f in facts.items():
        first = rank - f.local_rank
        for neighbour in range(first, min(first + f.local_world_size, world_size)):
            hosts.setdefault(neighbour, f.host)
    return hosts


def check_rendezvous(facts: Mapping[int, HostFacts], world_size: int, lost: Lost | None) -> Check:
    """All ranks joined and go on answering."""
    hosts = known_hosts(facts, world_size)
    where: dict[str, tuple[str, int]] = {}
    for _, f in sorted(facts.items()):
        text = f"{f.host} {f.address.address} ({f.address.interface})"
        where[f.host] = (text, where.get(f.host, ("", 0))[1] + 1)
    seen = some((f"{text} x {count}" for text, count in where.values()), limit=8)
    if lost is None:
        return Check("rendezvous", Status.PASS, f"{world_size} process(es): {seen}")
    return Check(
        "rendezvous",
        Status.FAIL,
        f"no answer from {name_ranks(lost.ranks, hosts)} at: {lost.at}. "
        f"{len(facts)} of {world_size} answered the roll call: {seen}",
        "on that host: is the process alive and not stopped or stuck in a file system, "
        "does the link carry traffic both ways on all ports?",
    )


def check_addresses(facts: Mapping[int, HostFacts]) -> Check:
    """Each host listens where the others can reach it."""
    hosts = hosts_of(facts)
    wrong = {rank: f.address for rank, f in facts.items() if f.address.error}
    if wrong:
        first = wrong[min(wrong)]
        status = Status.FAIL if not first.address or len(set(hosts.values())) > 1 else Status.WARN
        mend = "name an interface with GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME), or mend /etc/hosts"
        return Check("addresses", status, f"{name_ranks([min(wrong)], hosts)}: {first.error}", mend)
    loopback = [rank for rank, f in facts.items() if f.address.address.startswith("127.")]
    if loopback and len(set(hosts.values())) > 1:
        seen = f"{name_ranks(loopback, hosts)}: the host's own name resolves to {facts[loopback[0]].address.address}"
        mend = "set GLOO_SOCKET_IFNAME to the interface the hosts share, or mend /etc/hosts"
        return Check("addresses", Status.FAIL, seen, mend)
    used = sorted({f.address.interface for f in facts.values()})
    return Check("addresses", Status.PASS, f"interface {', '.join(used)}")


def check_collectives(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> list[Check]:
    """Rows on all-reduce and all-gather: right results, and how fast."""
    names = ("all-reduce", "all-gather")
    if facts is None:
        return [Check(name, Status.NOT_CHECKED, "one process", "start it with torchrun") for name in names]
    if not facts:
        return [not_reached(name) for name in names]
    errors = {rank: f.error for rank, f in facts.items() if f.error}
    if errors:
        seen = some((f"{name_ranks([rank], hosts)}: {error}" for rank, error in sorted(errors.items())), limit=4)
        mend = (
            "the ranks talk on the interface and address in the row `rendezvous`: open all ports there, "
            "or set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO says more)"
        )
        return [Check("all-reduce", Status.FAIL, seen, mend), not_reached("all-gather")]
    return [_check_collective(name, name.replace("-", "_"), facts, hosts) for name in names]


def _check_collective(name: str, operation: str, facts: Mapping[int, NetworkFacts], hosts: Mapping[int, str]) -> Check:
    wrong = {rank: [w for w in f.wrong if w.startswith(operation)] for rank, f in facts.items()}
    wrong = {rank: those for rank, those in wrong.items() if those}
    if wrong:
        seen = f"wrong results on {name_ranks(wrong, hosts)}: {', '.join(wrong[min(wrong)])}"
        return Check(name, Status.FAIL, seen, "another NCCL or driver version; NCCL_ALGO, NCCL_P2P_DISABLE=1 to narrow")
    backend = facts[min(facts)].backend
    speeds = "; ".join(_speed(c, len(facts)) for c in slowest(facts) if c.operation == operation)
    return Check(name, Status.PASS, f"{backend}, right results; {speeds}")


def _speed(c: CollectiveTiming, world_size: int) -> str:
    size = f"{c.bytes // 2**20} MiB" if c.bytes >= 2**20 else f"{c.bytes // 2**10} KiB" if c.bytes >= 2**10 else "4 B"
    text = f"{size} {c.seconds * 1e3:.3g} ms"
    if c.operation == "all_reduce" and c.bytes >= 2**20:
        # What each link carries in a ring, so that it can be held against the link's speed.
        text += f" ({2 * (world_size - 1) / world_size * c.bytes / c.seconds / 1e9:.2f} GB/s)"
    return text


def check_clocks(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """The hosts' clocks against rank 0's."""
    clocks = facts[0].clocks if facts is not None and 0 in facts else []
    if not clocks:
        one_host = len(set(hosts.values())) < 2
        return Check("clocks", Status.NOT_CHECKED, "one host") if one_host else not_reached("clocks")
    worst = max(clocks, key=lambda c: abs(c.ahead_seconds) - c.round_trip_seconds / 2)
    ahead, known_to = worst.ahead_seconds, worst.round_trip_seconds / 2
    seen = f"{hosts[worst.rank]} is {abs(ahead):.4f} s {'ahead of' if ahead > 0 else 'behind'} rank 0's host"
    seen += f" (known to {known_to:.4f} s)"
    certain = abs(ahead) - known_to
    mend = "run an NTP client on every host (chronyc tracking, timedatectl)"
    if certain > SKEW_FAIL_SECONDS:
        return Check("clocks", Status.FAIL, seen, mend)
    if certain > SKEW_WARN_SECONDS:
        return Check("clocks", Status.WARN, seen, mend)
    return Check("clocks", Status.PASS, seen)


def check_links(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """A slow link between neighbouring hosts is named."""
    links = [link for f in (facts or {}).values() for link in f.links]
    if not links:
        one_host = len(set(hosts.values())) < 2
        return Check("links", Status.NOT_CHECKED, "one host") if one_host else not_reached("links")
    middle = statistics.median(link.seconds for link in links)
    worst = max(links, key=lambda link: link.seconds)
    first, second = (hosts[rank] for rank in worst.ranks)
    seen = f"slowest: {first} - {second} {worst.bytes / worst.seconds / 1e9:.2f} GB/s"
    seen += f", median {worst.bytes / middle / 1e9:.2f} GB/s of {len(links)}"
    if worst.seconds > SLOW_RATIO * middle:
        return Check("links", Status.WARN, seen, "look at that pair's cables, switch ports and routes")
    return Check("links", Status.PASS, seen)


def check_stragglers(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """The slowest rank at the same matrix product; every step waits for it."""
    times = {rank: f.matmul_seconds for rank, f in (facts or {}).items() if f.matmul_seconds}
    if facts is None:
        return Check("stragglers", Status.NOT_CHECKED, "one process", "start it with torchrun")
    if not times:
        return not_reached("stragglers")
    middle = statistics.median(times.values())
    last = max(times, key=times.__getitem__)
    seen = f"slowest: {name_ranks([last], hosts)} {times[last] * 1e3:.3g} ms for a matrix product, "
    seen += f"median {middle * 1e3:.3g} ms"
    if times[last] > SLOW_RATIO * middle:
        mend = "another process there? clocks throttled (nvidia-smi -q -d PERFORMANCE), fewer cores?"
        return Check("stragglers", Status.WARN, seen, mend)
    return Check("stragglers", Status.PASS, seen)
