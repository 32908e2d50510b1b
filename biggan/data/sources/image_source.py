"""`ImageSource`, the common interface of all sources, and operations on its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

ONE_CLASS = "images"
"""Name of the class of images without labels."""


@dataclass(frozen=True)
class ImageSource:
    """Labelled images. Item k has the unique name `names[k]` and the class `classes[labels[k]]`."""

    classes: list[str]
    names: list[str]
    labels: list[int]
    read: Callable[[int], Image.Image]
    """Function that opens item k; raises OSError, ValueError or another error of Pillow's decoder if it is corrupt.

    Consecutive items may be stored and read together, so reading them in order is fastest."""
    used_flags: frozenset[str] = frozenset()
    """Those of `--split` and `--label-column` that this source uses."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one line each."""


def printable(text: str) -> str:
    """Escape characters that UTF-8 cannot encode, such as those of a Latin-1 file name."""
    return text.encode("utf-8", "backslashreplace").decode()


def sorted_class_names(names: Iterable[str]) -> list[str]:
    """Return the distinct names in the order of class numbers: as numbers if all are decimal numbers, else as text.

    Classes named 0 to n - 1 thus have their names as their numbers. "007" is text.
    """
    distinct = sorted(set(names))
    if all(re.fullmatch("0|[1-9][0-9]*", name) for name in distinct):
        distinct.sort(key=len)
    return distinct


def number_duplicates(names: Sequence[str]) -> list[str]:
    """Return unique names: repeated ones get a number, "crane" and "crane 2"."""
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in unique or (number > 1 and candidate in names):
            number += 1
            candidate = f"{name} {number}"
        unique[candidate] = None
    return list(unique)


def class_indices(names: list[str], classes: list[str]) -> list[int]:
    """Return the index in `classes` of each name."""
    index = {name: k for k, name in enumerate(classes)}
    return [index[name] for name in names]
