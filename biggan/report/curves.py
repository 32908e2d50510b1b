"""A run's metrics as curves. They are thinned while they are read, so memory does not grow with the length of the
run."""

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
"""Number of intervals of steps that a curve is divided into; each keeps at most five points."""
TAIL_BYTES = 2**20
"""Number of bytes at the end of a file that are searched for its last complete row; a row of 150 layers has about 40
kB."""
SINGULAR_VALUES = ("0", "1", "2")


@dataclass(frozen=True)
class Span:
    """Steps `first` to `last`, both included: the range of a chart."""

    first: int
    last: int

    def __contains__(self, step: int) -> bool:
        return self.first <= step <= self.last

    def fraction(self, step: float) -> float:
        """Return the position of `step` in the span: 0 at its first step, 1 at its last."""
        return (step - self.first) / max(1, self.last - self.first)


class Curve:
    """One metric over the steps. In each bucket it keeps the first, lowest, highest, last and first non-finite point.

    A line chart of this many pixels can show no more (M4: Jugel et al., VLDB 2014), so spikes stay visible.
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
        """Return the points (step, value) in ascending order; values may be NaN or infinite."""
        self._close_bucket()
        return list(zip(self._steps, self._values, strict=True))

    def finite(self) -> list[tuple[int, float]]:
        """Return `points` without NaN and infinite values."""
        return [(step, value) for step, value in self.points() if math.isfinite(value)]

    def _close_bucket(self) -> None:
        for step, value in sorted(set(self._kept.values()), key=lambda point: point[0]):
            self._steps.append(step)
            self._values.append(value)
        self._kept = {}


class Curves:
    """Curves by metric, from the rows of one file within a span of steps."""

    def __init__(self, span: Span):
        self.span = span
        self._by_key: dict[str, Curve | None] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl`; values that are not numbers and keys that no chart needs are skipped."""
        step = row["step"]
        if step not in self.span:
            return
        bucket = min(BUCKETS - 1, int(self.span.fraction(step) * BUCKETS))
        for key, value in row.items():
            if key not in self._by_key:
                self._by_key[key] = Curve() if not key.startswith("sigma/") or _layer_of(key) else None
            if (curve := self._by_key[key]) is not None and _is_number(value):
                curve.add(bucket, step, value)

    def get(self, key: str) -> Curve | None:
        """Return the curve of a metric; None if the file has no value of it in the span."""
        return self._by_key.get(key)

    def sigma_0(self) -> dict[str, Curve]:
        """Return the curve of the largest singular value of each layer, by layer name."""
        layers = ((curve, _layer_of(key)) for key, curve in self._by_key.items() if key.endswith("/0"))
        return {layer: curve for curve, layer in layers if curve is not None and layer is not None}


@dataclass(frozen=True)
class CurveView:
    """Curves of one span of steps: `now` of the current trajectory, `attempts` of those that rollbacks abandoned."""

    span: Span
    now: Curves
    attempts: tuple[Curves, ...]


def _layer_of(key: str) -> str | None:
    """Return LAYER of a key `sigma/LAYER/K`; None for other keys."""
    prefix, _, rest = key.partition("/")
    layer, _, which = rest.rpartition("/")
    return layer if prefix == "sigma" and which in SINGULAR_VALUES and layer else None


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .jsonl file in order; none if it does not exist. Truncated lines (of a live run) are
    skipped."""
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
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_step(row.get("step")) else None


def _is_number(value: object) -> bool:
    """Return True for numbers that a chart can draw; integers of a damaged file may be too large for a float."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def is_step(value: object) -> bool:
    """Return True for a plausible number of steps: an integer, not a truth value, and not too large for a float."""
    return type(value) is int and 0 <= value < 2**53


def last_row(path: Path) -> dict[str, Any]:
    """Return the last complete row of a .jsonl file without reading the rest; {} without one."""
    try:
        with path.open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), TAIL_BYTES), os.SEEK_END)
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next((row for line in reversed(lines) if (row := _row(line)) is not None), {})


def read_views(now: Path, attempts: Sequence[Path], spans: Sequence[Span]) -> list[CurveView]:
    """Return one view per span; each file is read once."""
    by_file = []
    for path in (now, *attempts):
        curves = [Curves(span) for span in spans]
        for row in rows(path):
            for part in curves:
                part.add(row)
        by_file.append(curves)
    return [
        CurveView(span, parts[0], tuple(parts[1:]))
        for span, parts in zip(spans, zip(*by_file, strict=True), strict=True)
    ]


def recent_growth(curve: Curve, span: Span) -> float:
    """Return the highest value in the last tenth of the span, divided by the median of the tenth before it.

    The result is infinite if the last value is not finite, and 1 if there are no values to compare.
    """
    points = curve.points()
    if points and not math.isfinite(points[-1][1]):
        return math.inf
    recent = [value for step, value in points if math.isfinite(value) and span.fraction(step) > 0.9]
    before = [value for step, value in points if math.isfinite(value) and 0.8 < span.fraction(step) <= 0.9]
    if not recent or not before or statistics.median(before) <= 0:
        return 1.0
    return max(recent) / statistics.median(before)


def rank_layers(curves: Curves, alarmed: Sequence[str]) -> list[tuple[str, float]]:
    """Return (layer, recent growth of its sigma_0): the `alarmed` layers first, then in descending order of growth."""
    growth = {layer: recent_growth(curve, curves.span) for layer, curve in curves.sigma_0().items()}
    return sorted(growth.items(), key=lambda item: (item[0] not in alarmed, -item[1], item[0]))
