"""One line of the doctor's table, and how ranks that differ from the others are found and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended. Only `fail` makes the command's exit code non-zero."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """What was looked at, what was seen, and what mends it (empty if nothing needs to be mended)."""

    name: str
    status: Status
    seen: str
    mend: str = ""


def not_reached(name: str) -> Check:
    """A row that was asked for, but something before it ended the examination."""
    return Check(name, Status.NOT_CHECKED, "not reached", "mend the rows that failed first")


def odd_ones(values: Mapping[int, str | None]) -> tuple[str | None, dict[int, str | None]]:
    """The commonest value (of equally common ones the lowest rank's), and the ranks that have another."""
    common = Counter(values[rank] for rank in sorted(values)).most_common(1)[0][0]
    return common, {rank: value for rank, value in sorted(values.items()) if value != common}


def name_ranks(ranks: Iterable[int], hosts: Mapping[int, str]) -> str:
    """`rank 3 (host b)`, or `ranks 2, 3 (host b), 4 (host unknown)`; of more than 8, the first 8."""
    wanted = sorted(ranks)
    groups: list[tuple[str, list[int]]] = []
    for rank in wanted[:8]:
        host = hosts.get(rank, "unknown")
        if not groups or groups[-1][0] != host:
            groups.append((host, []))
        groups[-1][1].append(rank)
    text = ", ".join(f"{', '.join(map(str, group))} (host {host})" for host, group in groups)
    more = f" and {len(wanted) - 8} more" if len(wanted) > 8 else ""
    return f"rank{'s' if len(wanted) > 1 else ''} {text}{more}"


def some(items: Iterable[str], limit: int = 5) -> str:
    """Items joined by semicolons; of more than `limit`, the first ones and how many more."""
    listed = list(items)
    more = f"; and {len(listed) - limit} more" if len(listed) > limit else ""
    return "; ".join(listed[:limit]) + more
