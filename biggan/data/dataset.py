"""`dataset.json`: what a packed data set holds, and the checks made before it is trained on."""

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
"""Ratio of the largest to the smallest class from which training warns."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Record):
    """One tar file of samples `KEY.png` (or `.jpg`) and `KEY.cls` (the label as text)."""

    name: str
    images: int
    bytes: int
    sha256: str


class Split(_Record):
    """The shards of the training or the held-out images."""

    images: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]


class Preprocessing(_Record):
    """How source images became square ones."""

    crop: str
    resize: str
    encoding: str
    colour: str = "RGB"


class Skipped(_Record):
    """An image that could not be read, and why."""

    path: str
    reason: str


class Dataset(_Record):
    """The contents of `dataset.json`."""

    format: int = 1
    source: str
    resolution: int
    channels: Literal[1, 3] = 3
    """1: grey."""
    balanced: bool = False
    """Training images of small classes stand there several times, so that all classes are of one size."""
    classes: tuple[str, ...]
    images: int
    class_counts: tuple[int, ...]
    splits: dict[str, Split]
    preprocessing: Preprocessing
    skipped: tuple[Skipped, ...] = ()

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return json.dumps(self.model_dump(), indent=1) + "\n"


def parse(text: str | bytes, origin: str) -> Dataset:
    """Read the text of a `dataset.json`; raises InputError that names `origin`."""
    try:
        return Dataset.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{origin}: {where}: {first['msg']}; pack the data set again, to another folder") from None


def load(folder: Path) -> Dataset:
    """Read `folder`/dataset.json and check that every shard is there."""
    file = folder / FILE_NAME
    if not folder.is_dir():
        raise InputError(
            f"data.path: {folder}: no such folder; make it with `biggan pack SOURCE {folder} --resolution N`"
        )
    if not file.is_file() and any(folder.glob("*.tar")):
        raise InputError(
            f"data.path: {folder} has no {FILE_NAME}: a pack that was interrupted; run the same `biggan pack` again"
        )
    if not file.is_file():
        raise InputError(
            f"data.path: {folder} is not a packed data set (no {FILE_NAME}); "
            f"make one with `biggan pack {folder} DEST` and give DEST"
        )
    dataset = parse(file.read_bytes(), str(file))
    for split in dataset.splits.values():
        for shard in split.shards:
            if ":" not in shard.name and not (folder / shard.name).is_file():
                raise InputError(f"{folder / shard.name}: shard is missing; remove {folder} and pack it again")
    return dataset


def check_trainable(dataset: Dataset, *, classes: int, resolution: int, image_channels: int, streams: int) -> list[str]:
    """Raise InputError if the training split cannot feed such a run; return warnings, one line each."""
    if dataset.channels != image_channels:
        kind, other = ("grey", "without") if dataset.channels == 1 else ("RGB", "with")
        raise InputError(
            f"model.image_channels: {image_channels}, but the data set was packed {kind}; "
            f"set model.image_channels={dataset.channels} or pack it {other} --grey"
        )
    if dataset.resolution != resolution:
        raise InputError(
            f"model.resolution: {resolution}, but the data set was packed at {dataset.resolution} px; "
            f"pack it with --resolution {resolution} or set model.resolution={dataset.resolution}"
        )
    counts = dataset.splits["train"].class_counts
    present = [k for k, count in enumerate(counts) if count]
    if classes > 1 and len(present) == 1:
        raise InputError(
            f"model.classes: {classes}, but all {counts[present[0]]} images are labelled "
            f"'{dataset.classes[present[0]]}' (a wrong folder level?); "
            f"pack the folder that holds one folder per class, or set model.classes=1"
        )
    if len(dataset.classes) != classes:
        raise InputError(
            f"model.classes: {classes}, but the data set has {len(dataset.classes)} classes; "
            f"set model.classes={len(dataset.classes)}"
        )
    shards = len(dataset.splits["train"].shards)
    if streams > shards:
        raise InputError(
            f"data.streams: {streams} streams need at least as many shards, the data set has {shards}; "
            f"use at most {shards}, or pack with --shards {streams}"
        )
    return _skew_warnings(dataset.classes, counts)


def _skew_warnings(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    least, most = (pick(range(len(counts)), key=counts.__getitem__) for pick in (min, max))
    if counts[most] <= SKEW_WARNING * counts[least]:
        return []
    return [
        f"classes are skewed: '{classes[most]}' has {counts[most]} images, "
        f"'{classes[least]}' {counts[least]}; labels of fakes are drawn uniformly all the same; "
        f"to make them of one size, pack with --balance"
    ]


def checksum(dataset: Dataset) -> str:
    """Hex SHA-256 of what its images and labels are: its shards' checksums, split by split, and its classes."""
    content = [dataset.classes, {name: [s.sha256 for s in split.shards] for name, split in dataset.splits.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
