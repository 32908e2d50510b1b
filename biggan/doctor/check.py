"""One row of the doctor's table, and functions that find and name the ranks that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Result of a check. Only `fail` makes the command's exit code non-zero."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: Status
    observed: str
    """Measured or read values, in words."""
    fix: str = ""
    """Empty if nothing needs a fix."""


def not_reached(name: str) -> Check:
    """Return a row for a check that was requested but not reached, because an earlier failure ended the examination."""
    return Check(name, Status.NOT_CHECKED, "not reached", "fix the rows that failed first")


def outliers(values: Mapping[int, str | None]) -> tuple[str | None, dict[int, str | None]]:
    """Return the most common value, and the ranks that have another one with theirs.

    Of equally common values the lowest rank's counts as the most common.
    """
    common = Counter(values[rank] for rank in sorted(values)).most_common(1)[0][0]
    return common, {rank: value for rank, value in sorted(values.items()) if value != common}


def name_ranks(ranks: Iterable[int], hosts: Mapping[int, str]) -> str:
    """Return `rank 3 (host b)`, or `ranks 2, 3 (host b), 4 (host unknown)`. Lists at most 8 ranks."""
    numbers = sorted(ranks)
    groups: list[tuple[str, list[int]]] = []
    for rank in numbers[:8]:
        host = hosts.get(rank, "unknown")
        if not groups or groups[-1][0] != host:
            groups.append((host, []))
        groups[-1][1].append(rank)
    text = ", ".join(f"{', '.join(map(str, group))} (host {host})" for host, group in groups)
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"rank{'s' if len(numbers) > 1 else ''} {text}{more}"


def join_limited(items: Iterable[str], limit: int = 5) -> str:
    """Join items with semicolons. Beyond `limit` items, give only the number of the others."""
    listed = list(items)
    more = f"; and {len(listed) - limit} more" if len(listed) > limit else ""
    return "; ".join(listed[:limit]) + more
