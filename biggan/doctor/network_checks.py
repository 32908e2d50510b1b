"""Checks of the network: missing ranks, addresses, collectives, clocks, slow links and slow ranks.

Pure functions of the facts that the ranks reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from biggan.doctor.check import Check, Status, join_limited, name_ranks, not_reached
from biggan.doctor.host import HostFacts
from biggan.doctor.host_checks import hosts_of
from biggan.doctor.network import CollectiveTiming, NetworkFacts, slowest_timings

SKEW_WARN_SECONDS = 1.0
SKEW_FAIL_SECONDS = 10.0
"""torchrun's c10d rendezvous considers a node dead if its heartbeat is 15 s old by another node's clock."""
SLOW_RATIO = 1.5
"""Ratio of a rank's or link's time to the median above which it is reported."""


@dataclass(frozen=True)
class SilentRanks:
    """Ranks that did not answer in time."""

    ranks: tuple[int, ...]
    topic: str
    """The step in which the others waited for them."""


def known_hosts(facts: Mapping[int, HostFacts], world_size: int) -> dict[int, str]:
    """Return the host of each rank that answered or has a neighbour that answered: torchrun numbers node by node."""
    hosts = hosts_of(facts)
    for rank, f in facts.items():
        first = rank - f.local_rank
        for neighbour in range(first, min(first + f.local_world_size, world_size)):
            hosts.setdefault(neighbour, f.host)
    return hosts


def check_rendezvous(facts: Mapping[int, HostFacts], world_size: int, silent: SilentRanks | None) -> Check:
    """Check that all ranks joined and kept answering."""
    hosts = known_hosts(facts, world_size)
    places: dict[str, tuple[str, int]] = {}
    for _, f in sorted(facts.items()):
        text = f"{f.host} {f.address.address} ({f.address.interface})"
        places[f.host] = (text, places.get(f.host, ("", 0))[1] + 1)
    observed = join_limited((f"{text} x {count}" for text, count in places.values()), limit=8)
    if silent is None:
        return Check("rendezvous", Status.PASS, f"{world_size} process(es): {observed}")
    return Check(
        "rendezvous",
        Status.FAIL,
        f"no answer from {name_ranks(silent.ranks, hosts)} while {silent.topic}. "
        f"{len(facts)} of {world_size} sent their host facts: {observed}",
        "on that host, check that the process is alive and not stopped or stuck in a file system, "
        "and that the link carries traffic both ways on all ports",
    )


def check_addresses(facts: Mapping[int, HostFacts]) -> Check:
    """Check that each host listens on an address that the others can reach."""
    hosts = hosts_of(facts)
    wrong = {rank: f.address for rank, f in facts.items() if f.address.error}
    if wrong:
        first = wrong[min(wrong)]
        status = Status.FAIL if not first.address or len(set(hosts.values())) > 1 else Status.WARN
        fix = "name an interface with GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME), or correct /etc/hosts"
        return Check("addresses", status, f"{name_ranks([min(wrong)], hosts)}: {first.error}", fix)
    loopback = [rank for rank, f in facts.items() if f.address.address.startswith("127.")]
    if loopback and len(set(hosts.values())) > 1:
        observed = (
            f"{name_ranks(loopback, hosts)}: the host's own name resolves to {facts[loopback[0]].address.address}"
        )
        fix = "set GLOO_SOCKET_IFNAME to the interface the hosts share, or correct /etc/hosts"
        return Check("addresses", Status.FAIL, observed, fix)
    used = sorted({f.address.interface for f in facts.values()})
    return Check("addresses", Status.PASS, f"interface {', '.join(used)}")


def check_collectives(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> list[Check]:
    """Return the rows `all-reduce` and `all-gather`: correctness and speed."""
    names = ("all-reduce", "all-gather")
    if facts is None:
        return [Check(name, Status.NOT_CHECKED, "one process", "start it with torchrun") for name in names]
    if not facts:
        return [not_reached(name) for name in names]
    errors = {rank: f.error for rank, f in facts.items() if f.error}
    if errors:
        observed = join_limited(
            (f"{name_ranks([rank], hosts)}: {error}" for rank, error in sorted(errors.items())), limit=4
        )
        fix = (
            "the ranks use the interface and address in the row `rendezvous`: open all ports there, "
            "or set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO prints details)"
        )
        return [Check("all-reduce", Status.FAIL, observed, fix), not_reached("all-gather")]
    return [_check_collective(name, name.replace("-", "_"), facts, hosts) for name in names]


def _check_collective(name: str, operation: str, facts: Mapping[int, NetworkFacts], hosts: Mapping[int, str]) -> Check:
    wrong = {rank: [w for w in f.wrong if w.startswith(operation)] for rank, f in facts.items()}
    wrong = {rank: those for rank, those in wrong.items() if those}
    if wrong:
        observed = f"wrong results on {name_ranks(wrong, hosts)}: {', '.join(wrong[min(wrong)])}"
        return Check(
            name,
            Status.FAIL,
            observed,
            "use another NCCL or driver version; isolate with NCCL_ALGO, NCCL_P2P_DISABLE=1",
        )
    backend = facts[min(facts)].backend
    speeds = "; ".join(_speed(c, len(facts)) for c in slowest_timings(facts) if c.operation == operation)
    return Check(name, Status.PASS, f"{backend}, correct results; {speeds}")


def _speed(c: CollectiveTiming, world_size: int) -> str:
    size = f"{c.bytes // 2**20} MiB" if c.bytes >= 2**20 else f"{c.bytes // 2**10} KiB" if c.bytes >= 2**10 else "4 B"
    text = f"{size} {c.seconds * 1e3:.3g} ms"
    if c.operation == "all_reduce" and c.bytes >= 2**20:
        # Bytes that each link carries in a ring, to compare with the link's speed.
        text += f" ({2 * (world_size - 1) / world_size * c.bytes / c.seconds / 1e9:.2f} GB/s)"
    return text


def check_clocks(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """Check the hosts' clocks against rank 0's."""
    clocks = facts[0].clocks if facts is not None and 0 in facts else []
    if not clocks:
        one_host = len(set(hosts.values())) < 2
        return Check("clocks", Status.NOT_CHECKED, "one host") if one_host else not_reached("clocks")
    worst = max(clocks, key=lambda c: abs(c.ahead_seconds) - c.round_trip_seconds / 2)
    ahead, tolerance = worst.ahead_seconds, worst.round_trip_seconds / 2
    observed = f"{hosts[worst.rank]} is {abs(ahead):.4f} s {'ahead of' if ahead > 0 else 'behind'} rank 0's host"
    observed += f" (+- {tolerance:.4f} s)"
    least_skew = abs(ahead) - tolerance
    fix = "run an NTP client on every host (chronyc tracking, timedatectl)"
    if least_skew > SKEW_FAIL_SECONDS:
        return Check("clocks", Status.FAIL, observed, fix)
    if least_skew > SKEW_WARN_SECONDS:
        return Check("clocks", Status.WARN, observed, fix)
    return Check("clocks", Status.PASS, observed)


def check_links(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """Check for a slow link between neighbouring hosts."""
    links = [link for f in (facts or {}).values() for link in f.links]
    if not links:
        one_host = len(set(hosts.values())) < 2
        return Check("links", Status.NOT_CHECKED, "one host") if one_host else not_reached("links")
    median = statistics.median(link.seconds for link in links)
    worst = max(links, key=lambda link: link.seconds)
    first, second = (hosts[rank] for rank in worst.ranks)
    observed = f"slowest: {first} - {second} {worst.bytes / worst.seconds / 1e9:.2f} GB/s"
    observed += f", median {worst.bytes / median / 1e9:.2f} GB/s of {len(links)}"
    if worst.seconds > SLOW_RATIO * median:
        return Check("links", Status.WARN, observed, "check this pair's cables, switch ports and routes")
    return Check("links", Status.PASS, observed)


def check_stragglers(facts: Mapping[int, NetworkFacts] | None, hosts: Mapping[int, str]) -> Check:
    """Check for a slow rank at the same matrix product. Every training step waits for the slowest rank."""
    times = {rank: f.matmul_seconds for rank, f in (facts or {}).items() if f.matmul_seconds}
    if facts is None:
        return Check("stragglers", Status.NOT_CHECKED, "one process", "start it with torchrun")
    if not times:
        return not_reached("stragglers")
    median = statistics.median(times.values())
    slowest = max(times, key=times.__getitem__)
    observed = f"slowest: {name_ranks([slowest], hosts)} {times[slowest] * 1e3:.3g} ms for a matrix product, "
    observed += f"median {median * 1e3:.3g} ms"
    if times[slowest] > SLOW_RATIO * median:
        fix = "look for other processes, throttled clocks (nvidia-smi -q -d PERFORMANCE), fewer cores"
        return Check("stragglers", Status.WARN, observed, fix)
    return Check("stragglers", Status.PASS, observed)
