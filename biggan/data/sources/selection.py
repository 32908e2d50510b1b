"""Many sources as one, and which of its classes are packed under which names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

from biggan.data.sources.image_source import ONE_CLASS, ImageSource, numbered, printable
from biggan.errors import InputError


class Merge(NamedTuple):
    """`--merge NAME=PART,PART`: the images of all parts are one class."""

    name: str
    parts: tuple[str, ...]


def parse_names(text: str, flag: str) -> tuple[str, ...]:
    """`a,b,c`, names with commas in quotes; raises InputError that names `flag`."""
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise InputError(f"{flag}: '{text}': a quote is not closed, or no name is given") from None
    names = tuple(printable(name.strip()) for name in row)
    if not names or not all(names):
        raise InputError(f"{flag}: '{text}': an empty name; write a,b,c")
    _refuse_twice(names, flag)
    return names


def parse_merge(text: str) -> Merge:
    """`dogs=beagle,poodle`; raises InputError."""
    name, equals, parts = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--merge: '{text}'; write NAME=CLASS,CLASS, as in dogs=beagle,poodle")
    return Merge(printable(name.strip()), parse_names(parts, "--merge"))


def _refuse_twice(names: Sequence[str], flag: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{flag}: '{twice[0]}' is named twice; name each class once")


def joined(sources: Sequence[ImageSource], origins: Sequence[str]) -> ImageSource:
    """All items of all sources, as ORIGIN/NAME; classes of one name are one, in the order they are first met."""
    classes = list(dict.fromkeys(name for source in sources for name in source.classes))
    items = [(source, k) for source in sources for k in range(len(source.names))]
    return ImageSource(
        classes=classes,
        names=[
            f"{printable(origin)}/{name}"
            for source, origin in zip(sources, origins, strict=True)
            for name in source.names
        ],
        labels=numbered([source.classes[source.labels[k]] for source, k in items], classes),
        read=lambda k: items[k][0].read(items[k][1]),
        in_groups=any(source.in_groups for source in sources),
        notes=tuple(note for source in sources for note in source.notes),
    )


def unconditional(source: ImageSource) -> ImageSource:
    """All its images in one class."""
    return replace(source, classes=[ONE_CLASS], labels=[0] * len(source.labels))


def merged(source: ImageSource, merges: Sequence[Merge]) -> ImageSource:
    """Each merge's parts under its name, at the place of the first of them; raises InputError."""
    _refuse_twice([part for merge in merges for part in merge.parts], "--merge")
    _refuse_twice([merge.name for merge in merges], "--merge")
    new_name = {part: merge.name for merge in merges for part in merge.parts}
    for part in new_name:
        _known(part, source.classes, "--merge")
    for merge in merges:
        if merge.name in source.classes and merge.name not in merge.parts:
            raise InputError(
                f"--merge: '{merge.name}' is a class already; name it among the parts too, or take another name"
            )
    renamed = [new_name.get(name, name) for name in source.classes]
    classes = list(dict.fromkeys(renamed))
    return replace(source, classes=classes, labels=numbered([renamed[label] for label in source.labels], classes))


def chosen(source: ImageSource, classes: Sequence[str]) -> ImageSource:
    """Only these classes, in this order; raises InputError for one that is not there or has no image."""
    for name in classes:
        _known(name, source.classes, "--classes")
    number_of = {source.classes.index(name): k for k, name in enumerate(classes)}
    kept = [k for k, label in enumerate(source.labels) if label in number_of]
    labels = [number_of[source.labels[k]] for k in kept]
    if empty := set(range(len(classes))).difference(labels):
        raise InputError(f"--classes: '{classes[min(empty)]}' has no images; leave it out")
    read = source.read
    return replace(
        source,
        classes=list(classes),
        names=[source.names[k] for k in kept],
        labels=labels,
        read=lambda k: read(kept[k]),
    )


def _known(name: str, classes: Sequence[str], flag: str) -> None:
    if name not in classes:
        near = get_close_matches(name, classes, n=3, cutoff=0.5) or classes[:3]
        raise InputError(f"{flag}: no class '{name}'; nearest of {len(classes)}: {', '.join(near)}")
