"""Axes: the position of a value on an axis, and the tick values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

MAX_TICKS = 6
MAX_DECADES = 6
"""Maximum number of decades of a logarithmic axis below its highest value; lower values are drawn on its edge."""


class Kind(Enum):
    """Layout of values along an axis."""

    LINEAR = "linear"
    LOG = "log"
    """Logarithmic; for positive values."""
    SIGNED_LOG = "signed log"
    """Linear if all values are within -10 to 10; else asinh: linear near 0, logarithmic beyond -1 and 1."""
    FRACTION = "fraction"
    """Linear from 0 to 1."""


@dataclass(frozen=True)
class Scale:
    """Axis from `lowest` to `highest`, linear in `warp(value)`."""

    lowest: float
    highest: float
    warp: Callable[[float], float]
    ticks: tuple[float, ...]

    def fraction(self, value: float) -> float:
        """Return the position of a value on the axis, 0 to 1; values beyond the axis are on its edge."""
        low, high = self.warp(self.lowest), self.warp(self.highest)
        return (self.warp(min(max(value, self.lowest), self.highest)) - low) / (high - low)


def scale_for(kind: Kind, values: Sequence[float]) -> Scale:
    """Return an axis that contains `values` (finite, at least one)."""
    if kind is Kind.FRACTION:
        return Scale(0.0, 1.0, float, (0.0, 0.25, 0.5, 0.75, 1.0))
    if kind is Kind.LOG and max(values) > 0:
        return _log_scale(values)
    if kind is Kind.SIGNED_LOG and max(map(abs, values)) > 10:
        return _signed_log_scale(values)
    return _linear_scale(values)


def _linear_scale(values: Sequence[float]) -> Scale:
    lowest, highest = min(values), max(values)
    width = highest - lowest or abs(highest) or 1.0
    size = 10.0 ** math.floor(math.log10(width / 4))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= width / 4)
    first, last = math.floor(lowest / step), math.ceil(highest / step)
    last = max(last, first + 1)
    return Scale(first * step, last * step, float, tuple(k * step for k in range(first, last + 1)))


def _log_scale(values: Sequence[float]) -> Scale:
    highest = max(values)
    lowest = min(value for value in values if value >= highest / 10**MAX_DECADES)
    decades = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 2)
    marks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    first = max(k for k, mark in enumerate(marks) if mark <= lowest)
    last = max(first + 1, min(k for k, mark in enumerate(marks) if mark >= highest))
    ticks = marks[first : last + 1]
    if len(ticks) > MAX_TICKS:
        ticks = [mark for mark in ticks if f"{mark:e}".startswith("1")]
    return Scale(marks[first], marks[last], math.log10, tuple(ticks))


def _signed_log_scale(values: Sequence[float]) -> Scale:
    lowest, highest = min(*values, 0.0), max(*values, 0.0)
    decades = math.ceil(math.log10(max(-lowest, highest)))
    sizes = [10.0**decade for decade in range(int(decades > 2), decades + 1, 1 + decades // 4)]
    marks = [*(-size for size in reversed(sizes)), 0.0, *sizes]
    return Scale(lowest, highest, math.asinh, tuple(mark for mark in marks if lowest <= mark <= highest))


def step_ticks(first: int, last: int) -> list[int]:
    """Return round numbers of steps from `first` to `last`, at most five."""
    scale = _linear_scale([first, last])
    within = [round(tick) for tick in scale.ticks if first <= tick <= last and tick == round(tick)]
    return within if len(within) <= 5 else within[::2]


def number(value: float) -> str:
    """Format a number with at most four significant digits: 0.0312, 3.14, 12,500, 3.2e+08."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
