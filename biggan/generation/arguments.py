"""Arguments of sampling that are read and checked before torch is imported: classes, truncations, interpolations."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

from biggan.errors import InputError


class InterpolatedInput(StrEnum):
    """The generator's inputs that change along a strip of images."""

    Z = "z"
    CLASS = "class"
    BOTH = "both"


class InterpolationPath(StrEnum):
    """The curve between two vectors: spherical (great circle) or linear (straight line)."""

    CIRCLE = "circle"
    LINE = "line"


@dataclass(frozen=True)
class Interpolation:
    """Settings of an interpolation between two images."""

    over: InterpolatedInput
    path: InterpolationPath
    steps: int
    """Number of images, at least 2, both ends included."""


def class_number(text: str, names: tuple[str, ...], flag: str) -> int:
    """Return the number of a class that is written as its name, or, if no class has that name, as its number.

    Raises InputError, which names `flag`, if there is no such class.
    """
    if text in names:
        return names.index(text)
    if re.fullmatch("[0-9]{1,9}", text) and int(text) < len(names):
        return int(text)
    near = difflib.get_close_matches(text[:100], names, n=1, cutoff=0.4)
    hint = f"nearest: {near[0]}; " if near else ""
    raise InputError(f"{flag}: no class '{text:.100}' ({hint}numbers go from 0 to {len(names) - 1})")


def check_truncation(truncation: float | None, flag: str) -> None:
    """Raise InputError, which names `flag`, unless `truncation` is None or a finite number above 0."""
    if truncation is not None and not (isinstance(truncation, Real) and truncation > 0 and math.isfinite(truncation)):
        raise InputError(f"{flag}: {truncation!r}; use a number above 0 (2 is mild, 0.5 strong), or remove it")


def parse_truncation(text: str, flag: str) -> float | None:
    """Return the truncation written as a number above 0, or None for the text `none`.

    Raises InputError, which names `flag`, for any other text.
    """
    if text == "none":
        return None
    try:
        truncation = float(text)
    except ValueError:
        raise InputError(f"{flag}: '{text}'; use a number above 0, or none") from None
    check_truncation(truncation, flag)
    return truncation
