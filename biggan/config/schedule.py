"""Numbers that change over a run: constant, or a schedule over generator steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, ConfigDict, Discriminator, RootModel, Tag, model_validator

MAX_POINTS = 1000
MAX_STEP = 10**9
Shape = Literal["linear", "cosine", "step"]


class Varying(Protocol):
    """A number that depends on the G step: a `Schedule`, or an object of a recipe that was composed in Python."""

    def at(self, step: int) -> float:
        """Return the value in G step `step`."""


class Schedule(RootModel[dict[Shape, dict[int, float]]]):
    """`{SHAPE: {STEP: VALUE, ...}}`: the value at some G steps, and the shape of the way between them.

    `linear` is a straight line, `cosine` half a period of a cosine, `step` keeps a value until the next step. Before
    the first step the first value holds, after the last the last one. A warm-up is `{linear: {0: 0, 1000: 2e-4}}`.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_points(self) -> Schedule:
        if len(self.root) != 1 or not 2 <= len(self.points) <= MAX_POINTS:
            raise ValueError("should be a number, or {linear: {0: 2e-4, 1000: 1e-4}} (or cosine, step) of 2 steps up")
        steps = [step for step, _ in self.points]
        if not 0 <= steps[0] <= steps[-1] <= MAX_STEP:
            raise ValueError(f"has a step outside 0 to {MAX_STEP:,}")
        return self

    @property
    def shape(self) -> Shape:
        """The shape of the way between two points."""
        return next(iter(self.root))

    @property
    def points(self) -> list[tuple[int, float]]:
        """The points (step, value), steps ascending."""
        return sorted(next(iter(self.root.values())).items())

    def at(self, step: int) -> float:
        """Return the value in G step `step`."""
        points = self.points
        k = bisect_right(points, step, key=lambda point: point[0])
        if k == 0 or k == len(points) or self.shape == "step":
            return points[max(0, k - 1)][1]
        (before, first), (after, second) = points[k - 1 : k + 1]
        t = (step - before) / (after - before)
        if self.shape == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return first + t * (second - first)

    def times(self, factor: float) -> Schedule:
        """Return the schedule with all values multiplied by `factor`."""
        return Schedule({self.shape: {step: value * factor for step, value in self.points}})


def value_at(value: float | Varying, step: int) -> float:
    """Return the value in G step `step`."""
    return value if isinstance(value, int | float) else value.at(step)


def values(value: float | Schedule) -> list[float]:
    """Return every value that a number or a schedule names; all others lie between them."""
    return [v for _, v in value.points] if isinstance(value, Schedule) else [value]


def bounded(
    minimum: float, maximum: float = math.inf, *, above: bool = False, below: bool = False
) -> Callable[[float | Schedule], float | Schedule]:
    """Return a check that all values lie in [minimum, maximum]; `above` and `below` exclude the ends.

    A schedule may touch a minimum that a constant must be above: a rate may fall to 0, but not be 0.
    """
    least = f"greater than {minimum:g}" if above else f"at least {minimum:g}"
    most = "" if math.isinf(maximum) else f" and {'less than' if below else 'at most'} {maximum:g}"

    def check(value: float | Schedule) -> float | Schedule:
        touches = not above or isinstance(value, Schedule)
        for v in values(value):
            if v < minimum or (v == minimum and not touches) or v > maximum or (v == maximum and below):
                raise ValueError(f"should be {least}{most}, not {v:g}")
        return value

    return check


Number = Annotated[
    Annotated[float, Tag("number")] | Annotated[Schedule, Tag("schedule")],
    Discriminator(lambda value: "schedule" if isinstance(value, dict | Schedule) else "number"),
]
"""A number, or a schedule of it. (The discriminator makes a wrong value one error, not one per alternative.)"""
Strength = Annotated[Number, AfterValidator(bounded(0))]
"""The weight of a term, at least 0; a constant 0 switches the term off."""
LearningRate = Annotated[Number, AfterValidator(bounded(0, 1, above=True))]
"""A learning rate, in (0, 1]."""
Decay = Annotated[Number, AfterValidator(bounded(0, 1, below=True))]
"""A decay rate, in [0, 1)."""
