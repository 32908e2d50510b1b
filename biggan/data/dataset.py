"""`dataset.json`, the description of a packed data set, and the checks before training on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from biggan.errors import InputError

FILE_NAME = "dataset.json"
SKEW_WARNING = 10.0
"""Ratio of the largest to the smallest class size above which training warns."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Record):
    """One tar file; each sample is `KEY.png` (or `.jpg`) and `KEY.cls` (the label as text)."""

    name: str
    images: int
    bytes: int
    sha256: str


class Split(_Record):
    """The shards of the training images or of the held-out images."""

    images: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]


class Preprocessing(_Record):
    """Description of the conversion from source images to square images."""

    crop: str
    resize: str
    encoding: str
    colour: str = "RGB"


class Skipped(_Record):
    """An unreadable image and the reason."""

    path: str
    reason: str


class Dataset(_Record):
    """The contents of `dataset.json`."""

    format: int = 1
    source: str
    resolution: int
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    balanced: bool = False
    """True if training images of small classes are repeated until all classes have the same size."""
    classes: tuple[str, ...]
    images: int
    class_counts: tuple[int, ...]
    splits: dict[str, Split]
    preprocessing: Preprocessing
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> str:
        """Return the text of `dataset.json`."""
        return json.dumps(self.model_dump(), indent=1) + "\n"


def parse(text: str | bytes, origin: str) -> Dataset:
    """Parse the text of a `dataset.json`; raise InputError that names `origin`."""
    try:
        return Dataset.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{origin}: {key}: {first['msg']}; pack the data set again into another folder") from None


def load(folder: Path) -> Dataset:
    """Read `folder`/dataset.json and check that every shard exists; raise InputError."""
    file = folder / FILE_NAME
    if not folder.is_dir():
        raise InputError(
            f"data.path: {folder}: no such folder; create it with `biggan pack SOURCE {folder} --resolution N`"
        )
    if not file.is_file() and any(folder.glob("*.tar")):
        raise InputError(
            f"data.path: {folder} has shards but no {FILE_NAME}: packing was interrupted; "
            f"run the same `biggan pack` again"
        )
    if not file.is_file():
        raise InputError(
            f"data.path: {folder} is not a packed data set (no {FILE_NAME}); "
            f"run `biggan pack {folder} DEST` and set data.path=DEST"
        )
    dataset = parse(file.read_bytes(), str(file))
    for split in dataset.splits.values():
        for shard in split.shards:
            if ":" not in shard.name and not (folder / shard.name).is_file():
                raise InputError(f"{folder / shard.name}: shard is missing; delete {folder} and pack it again")
    return dataset


def check_trainable(dataset: Dataset, *, classes: int, resolution: int, image_channels: int, streams: int) -> list[str]:
    """Check the training split against the settings of a run; return warnings, one line each.

    Raise InputError if channels, resolution, classes or number of shards do not fit.
    """
    if dataset.channels != image_channels:
        kind, other = ("grey", "without") if dataset.channels == 1 else ("RGB", "with")
        raise InputError(
            f"model.image_channels: {image_channels}, but the data set was packed as {kind}; "
            f"set model.image_channels={dataset.channels} or pack it again {other} --grey"
        )
    if dataset.resolution != resolution:
        raise InputError(
            f"model.resolution: {resolution}, but the data set was packed at {dataset.resolution} px; "
            f"pack it again with --resolution {resolution} or set model.resolution={dataset.resolution}"
        )
    counts = dataset.splits["train"].class_counts
    present = [k for k, count in enumerate(counts) if count]
    if classes > 1 and len(present) == 1:
        raise InputError(
            f"model.classes: {classes}, but all {counts[present[0]]} images have the label "
            f"'{dataset.classes[present[0]]}' (wrong folder level?); "
            f"pack the folder that contains one folder per class, or set model.classes=1"
        )
    if len(dataset.classes) != classes:
        raise InputError(
            f"model.classes: {classes}, but the data set has {len(dataset.classes)} classes; "
            f"set model.classes={len(dataset.classes)}"
        )
    shards = len(dataset.splits["train"].shards)
    if streams > shards:
        raise InputError(
            f"data.streams: {streams} streams need at least {streams} shards, but the data set has {shards}; "
            f"set data.streams to {shards} or less, or pack again with --shards {streams}"
        )
    return _skew_warnings(dataset.classes, counts)


def _skew_warnings(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    least, most = (pick(range(len(counts)), key=counts.__getitem__) for pick in (min, max))
    if counts[most] <= SKEW_WARNING * counts[least]:
        return []
    return [
        f"classes are imbalanced: '{classes[most]}' has {counts[most]} images, "
        f"'{classes[least]}' has {counts[least]}, but labels of generated images are drawn uniformly; "
        f"pack with --balance to equalize class sizes"
    ]


def checksum(dataset: Dataset) -> str:
    """Return a hex SHA-256 of the images and labels: of the class names and each split's shard checksums."""
    content = [dataset.classes, {name: [s.sha256 for s in split.shards] for name, split in dataset.splits.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
