"""Which classes of a source a run's classes begin as."""

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
    """What one class of the run begins as: the mean of some of the source's rows."""

    name: str
    sources: tuple[int, ...]
    """Numbers of the source's classes."""
    how: str
    """`by name`, `mean of all`, or the neighbours' names."""


def class_rows(classes: Sequence[str], known: Sequence[str], neighbours: Sequence[str]) -> tuple[ClassRow, ...]:
    """For each of `classes`: its own row in the source, which has the classes `known`, else that of its neighbours
    (`NEW=A+B`), else the mean of all.

    Of several "=" that one counts which makes known classes of both sides. Raises InputError, one line, for neighbours
    of what is no new class, or that the source does not know.
    """
    numbers = {name: k for k, name in enumerate(known)}
    near: dict[str, tuple[int, ...]] = {}
    for text in neighbours:
        name, values = _sides(text, classes, numbers)
        if name not in classes:
            raise InputError(f"{KEY}: '{text}': the data set has no class '{name}'{_nearest(name, classes)}")
        if name in numbers:
            raise InputError(f"{KEY}: '{text}': the source knows '{name}' itself; leave it out")
        if name in near:
            raise InputError(f"{KEY}: '{name}' is given twice; write {name}=A+B for the mean of several")
        named = _named(values, numbers)
        for value in named:
            if value not in numbers:
                raise InputError(f"{KEY}: '{text}': the source has no class '{value}'{_nearest(value, known)}")
        near[name] = tuple(numbers[value] for value in named)
    rows = []
    for name in classes:
        if name in numbers:
            rows.append(ClassRow(name, (numbers[name],), "by name"))
        elif name in near:
            rows.append(ClassRow(name, near[name], " + ".join(known[k] for k in near[name])))
        else:
            rows.append(ClassRow(name, tuple(range(len(known))), "mean of all"))
    return tuple(rows)


def _sides(text: str, classes: Sequence[str], known: Collection[str]) -> tuple[str, str]:
    """`NEW=A+B` -> (`NEW`, `A+B`), whose names may have a "=" in them."""
    sides = [(text[:k], text[k + 1 :]) for k in range(1, len(text) - 1) if text[k] == "="]
    return max(sides, key=lambda side: (side[0] in classes, all(name in known for name in _named(side[1], known))))


def _named(values: str, known: Collection[str]) -> list[str]:
    """`A+B` -> its names; a known name may have a "+" in it."""
    return [values] if values in known else values.split("+")


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"; nearest: {near[0]}" if near else ""


def same_rows(rows: Sequence[ClassRow], known: int) -> bool:
    """Whether a table of `known` classes stays as it is."""
    return [row.sources for row in rows] == [(k,) for k in range(known)]


def begun_table(table: Tensor, rows: Sequence[ClassRow]) -> Tensor:
    """A source's table [its classes, features] -> the run's [classes, features]."""
    means: dict[tuple[int, ...], Tensor] = {}
    for row in rows:
        if row.sources not in means:
            means[row.sources] = table[list(row.sources)].mean(0)
    return torch.stack([means[row.sources] for row in rows])


def summary(rows: Sequence[ClassRow], most: int = 12) -> list[str]:
    """How the classes begin, a line for each way; of many names `most` are shown."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        ways.setdefault(row.how, []).append(row.name)
    lines = []
    for how, names in ways.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        lines.append(f"{how}: {', '.join(names[:most])}{more}")
    return lines
