"""Maps the classes of a run to classes of the source, and initializes class embeddings accordingly."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.errors import InputError

KEY = "init.neighbours"


@dataclass(frozen=True)
class ClassRow:
    """Initialization of one class of the run: the mean of some of the source's rows."""

    name: str
    sources: tuple[int, ...]
    """Numbers of the source's classes."""
    rule: str
    """`by name`, `mean of all`, or the neighbours' names."""


def class_rows(classes: Sequence[str], known: Sequence[str], neighbours: Sequence[str]) -> tuple[ClassRow, ...]:
    """Return the initialization of each of `classes`; `known` are the source's classes.

    A class uses its own row in the source, else the mean of its neighbours (`NEW=A+B`), else the mean of all rows. If a
    text has several "=", the one with known classes on both sides separates them. Raises InputError, one line, if the
    left side is not a new class of the run, or the right side names a class that the source does not have.
    """
    numbers = {name: k for k, name in enumerate(known)}
    near = _parse_neighbours(classes, known, numbers, neighbours)
    rows = []
    for name in classes:
        if name in numbers:
            rows.append(ClassRow(name, (numbers[name],), "by name"))
        elif name in near:
            rows.append(ClassRow(name, near[name], " + ".join(known[k] for k in near[name])))
        else:
            rows.append(ClassRow(name, tuple(range(len(known))), "mean of all"))
    return tuple(rows)


def _parse_neighbours(
    classes: Sequence[str], known: Sequence[str], numbers: dict[str, int], neighbours: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the source's classes that each new class is the mean of; raise InputError."""
    near: dict[str, tuple[int, ...]] = {}
    for text in neighbours:
        name, values = _split(text, classes, numbers)
        if name not in classes:
            raise InputError(f"{KEY}: '{text}': the data set has no class '{name}'{_nearest(name, classes)}")
        if name in numbers:
            raise InputError(f"{KEY}: '{text}': the source has the class '{name}' itself; remove it")
        if name in near:
            raise InputError(f"{KEY}: '{name}' is given twice; write {name}=A+B for the mean of several")
        names = _split_names(values, numbers)
        for value in names:
            if value not in numbers:
                raise InputError(f"{KEY}: '{text}': the source has no class '{value}'{_nearest(value, known)}")
        near[name] = tuple(numbers[value] for value in names)
    return near


def _split(text: str, classes: Sequence[str], known: Collection[str]) -> tuple[str, str]:
    """Split `NEW=A+B` into `NEW` and `A+B`. Class names may contain "="."""
    sides = [(text[:k], text[k + 1 :]) for k in range(1, len(text) - 1) if text[k] == "="]
    return max(
        sides, key=lambda side: (side[0] in classes, all(name in known for name in _split_names(side[1], known)))
    )


def _split_names(values: str, known: Collection[str]) -> list[str]:
    """Split `A+B` into its names. A known name may contain "+"."""
    return [values] if values in known else values.split("+")


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; nearest: {near[0]}" if near else ""


def is_identity(rows: Sequence[ClassRow], known: int) -> bool:
    """Return True if the rows leave a table of `known` classes unchanged."""
    return [row.sources for row in rows] == [(k,) for k in range(known)]


def map_table(table: Tensor, rows: Sequence[ClassRow]) -> Tensor:
    """Return the run's table [classes, features], made from the source's table [its classes, features]."""
    means: dict[tuple[int, ...], Tensor] = {}
    for row in rows:
        if row.sources not in means:
            means[row.sources] = table[list(row.sources)].mean(0)
    return torch.stack([means[row.sources] for row in rows])


def summary(rows: Sequence[ClassRow], max_names: int = 12) -> list[str]:
    """Return one line for each rule, with the first `max_names` classes that it applies to."""
    names_by_rule: dict[str, list[str]] = {}
    for row in rows:
        names_by_rule.setdefault(row.rule, []).append(row.name)
    lines = []
    for rule, names in names_by_rule.items():
        more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
        lines.append(f"{rule}: {', '.join(names[:max_names])}{more}")
    return lines
