"""What is asked of a generator, read without torch: classes by name or number, and truncations."""

from __future__ import annotations

import difflib
import math
from numbers import Real

from biggan.errors import InputError


def class_number(text: str, names: tuple[str, ...], flag: str) -> int:
    """The number of a class, written as its name or as the number; raises InputError, which names `flag`."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
    hint = f"nearest: {near[0]}; " if near else ""
    raise InputError(f"{flag}: no class '{text}' ({hint}numbers go from 0 to {len(names) - 1})")


def check_truncation(truncation: float | None, flag: str) -> None:
    """Raise InputError, which names `flag`, unless latents can be drawn within `truncation`."""
    if truncation is not None and not (isinstance(truncation, Real) and truncation > 0 and math.isfinite(truncation)):
        raise InputError(f"{flag}: {truncation!r}; use a number above 0 (2 is mild, 0.5 strong), or leave it out")


def truncation_asked(text: str, flag: str) -> float | None:
    """A truncation as it is written on a command line: a number above 0, or `none`; raises InputError, which names
    `flag`."""
    if text == "none":
        return None
    try:
        truncation = float(text)
    except ValueError:
        raise InputError(f"{flag}: '{text}'; use a number above 0, or none") from None
    check_truncation(truncation, flag)
    return truncation
