"""A run's metrics as curves, thinned while they are read: a long run takes no more memory than a short one."""

from __future__ import annotations

import json
import math
import os
import statistics
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKETS = 250
"""Stretches of steps that a curve is thinned to; each keeps at most five points."""
TAIL_BYTES = 2**20
"""How far from its end a file's last whole row is looked for; a row of 150 layers is about 40 kB."""
SINGULAR_VALUES = ("0", "1", "2")


@dataclass(frozen=True)
class Span:
    """Steps `first` to `last`: what a chart shows."""

    first: int
    last: int

    def __contains__(self, step: int) -> bool:
        return self.first <= step <= self.last

    def share(self, step: float) -> float:
        """How far through the span `step` is: 0 at its first, 1 at its last."""
        return (step - self.first) / max(1, self.last - self.first)


class Curve:
    """One metric over the steps. Of each bucket it keeps the first, lowest, highest, last and non-finite point.

    That is all a line chart of so many pixels can show of them (M4: Jugel et al., VLDB 2014), so spikes stay.
    """

    def __init__(self) -> None:
        self._steps, self._values = array("q"), array("d")
        self._bucket = -1
        self._kept: dict[str, tuple[int, float]] = {}

    def add(self, bucket: int, step: int, value: float) -> None:
        """Append a point; buckets and steps come in ascending order."""
        if bucket != self._bucket:
            self._close_bucket()
            self._bucket = bucket
        kept, point = self._kept, (step, value)
        kept.setdefault("first", point)
        kept["last"] = point
        if not math.isfinite(value):
            kept.setdefault("not finite", point)
            return
        if "lowest" not in kept or value < kept["lowest"][1]:
            kept["lowest"] = point
        if "highest" not in kept or value > kept["highest"][1]:
            kept["highest"] = point

    def points(self) -> list[tuple[int, float]]:
        """(step, value), ascending; values may be NaN or infinite."""
        self._close_bucket()
        return list(zip(self._steps, self._values, strict=True))

    def finite(self) -> list[tuple[int, float]]:
        """`points` without those that are NaN or infinite."""
        return [(step, value) for step, value in self.points() if math.isfinite(value)]

    def _close_bucket(self) -> None:
        for step, value in sorted(set(self._kept.values()), key=lambda point: point[0]):
            self._steps.append(step)
            self._values.append(value)
        self._kept = {}


class Curves:
    """Curves by metric, of the rows of one file that lie in a span of steps."""

    def __init__(self, span: Span):
        self.span = span
        self._by_key: dict[str, Curve | None] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl`; what is no number is passed over, and so are the many keys nobody draws."""
        step = row["step"]
        if step not in self.span:
            return
        bucket = min(BUCKETS - 1, int(self.span.share(step) * BUCKETS))
        for key, value in row.items():
            if key not in self._by_key:
                self._by_key[key] = Curve() if not key.startswith("sigma/") or _layer_of(key) else None
            if (curve := self._by_key[key]) is not None and isinstance(value, int | float):
                curve.add(bucket, step, value)

    def get(self, key: str) -> Curve | None:
        """The curve of a metric, if the file has any of it in the span."""
        return self._by_key.get(key)

    def sigma_0(self) -> dict[str, Curve]:
        """The largest singular value, by layer."""
        layers = ((curve, _layer_of(key)) for key, curve in self._by_key.items() if key.endswith("/0"))
        return {layer: curve for curve, layer in layers if curve is not None and layer is not None}


@dataclass(frozen=True)
class View:
    """One span of steps: the path the run is on, and those that rollbacks left."""

    span: Span
    now: Curves
    attempts: tuple[Curves, ...]


def _layer_of(key: str) -> str | None:
    """The layer of `sigma/LAYER/K`; None if the key is another."""
    prefix, _, rest = key.partition("/")
    layer, _, which = rest.rpartition("/")
    return layer if prefix == "sigma" and which in SINGULAR_VALUES and layer else None


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl in order; none if it is not there. A line cut off (the run goes on) is passed over."""
    try:
        with path.open("rb") as file:
            for line in file:
                if (row := _row(line)) is not None:
                    yield row
    except OSError:
        return


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a .jsonl, without reading the rest; {} if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), TAIL_BYTES), os.SEEK_END)
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next((row for line in reversed(lines) if (row := _row(line)) is not None), {})


def read_views(now: Path, attempts: Sequence[Path], spans: Sequence[Span]) -> list[View]:
    """One view per span; each file is read once."""
    by_file = []
    for path in (now, *attempts):
        curves = [Curves(span) for span in spans]
        for row in rows(path):
            for part in curves:
                part.add(row)
        by_file.append(curves)
    return [
        View(span, parts[0], tuple(parts[1:])) for span, parts in zip(spans, zip(*by_file, strict=True), strict=True)
    ]


def recent_growth(curve: Curve, span: Span) -> float:
    """The highest value of the last tenth of the span, over the median of the tenth before it.

    Infinite if the last value is not finite; 1 if there is nothing to compare with.
    """
    points = curve.points()
    if points and not math.isfinite(points[-1][1]):
        return math.inf
    recent = [value for step, value in points if math.isfinite(value) and span.share(step) > 0.9]
    before = [value for step, value in points if math.isfinite(value) and 0.8 < span.share(step) <= 0.9]
    if not recent or not before or statistics.median(before) <= 0:
        return 1.0
    return max(recent) / statistics.median(before)


def rank_layers(curves: Curves, alarmed: Sequence[str]) -> list[tuple[str, float]]:
    """Layers and the recent growth of their sigma_0: those that alarms named come first, then by growth."""
    growth = {layer: recent_growth(curve, curves.span) for layer, curve in curves.sigma_0().items()}
    return sorted(growth.items(), key=lambda item: (item[0] not in alarmed, -item[1], item[0]))
