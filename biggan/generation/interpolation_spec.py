"""What an interpolation goes over, and how; the command line reads this before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Over(StrEnum):
    """What changes along a strip."""

    Z = "z"
    CLASS = "class"
    BOTH = "both"


class Path(StrEnum):
    """How it changes: on the great circle, or on the straight line."""

    CIRCLE = "circle"
    LINE = "line"


@dataclass(frozen=True)
class Route:
    """How to go from one image to another, both included in `steps` (at least 2)."""

    over: Over
    path: Path
    steps: int
