"""What every kind of source is opened as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

ONE_CLASS = "images"
"""The class of images that have none."""


@dataclass(frozen=True)
class ImageSource:
    """Labelled images: item k has the name `names[k]`, no other's, and the class `classes[labels[k]]`."""

    classes: list[str]
    names: list[str]
    labels: list[int]
    read: Callable[[int], Image.Image]
    """Open item k; raises OSError, ValueError or another error of the decoder if it is damaged."""
    in_groups: bool = False
    """Neighbours are stored, and read, together: a shard's items are best read in their order here."""
    heeds: frozenset[str] = frozenset()
    """Of the flags that some kinds of source have no use for, those that it was opened by."""
    notes: tuple[str, ...] = ()
    """What the user should hear of, one line each."""


def printable(text: str) -> str:
    """The text as UTF-8 can hold it: what is not of it (a file's name in Latin-1) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def apart(names: Sequence[str]) -> list[str]:
    """The names, each once: further ones of a name are numbered, "crane" and "crane 2"."""
    found: dict[str, None] = {}
    for name in names:
        own, number = name, 1
        while own in found or (number > 1 and own in names):
            number += 1
            own = f"{name} {number}"
        found[own] = None
    return list(found)


def numbered(found: list[str], classes: list[str]) -> list[int]:
    """The numbers of classes given by name."""
    index = {name: k for k, name in enumerate(classes)}
    return [index[name] for name in found]
