"""`dataset.json`, the description of a packed data set, and the checks before training on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from biggan.data.location import INSIDE, Access, shard_place
from biggan.errors import UNPRINTABLE, InputError
from biggan.files import MalformedFile, read_bytes
from biggan.json_file import Count, parse_json

FILE_NAME = "dataset.json"
PACK_AGAIN = "pack the data set again into another folder"
MIN_SAMPLE_BYTES = 4 * 512
"""Size in a shard of the smallest sample: a header and a block of data for the image, and the same for the label."""
SKEW_WARNING = 10.0
"""Ratio of the largest to the smallest class size above which training warns."""
MIXED_BATCHES = 10
"""Number of batches whose samples a shuffle buffer must hold. With fewer, the same images meet in every epoch."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Shard(_Record):
    """One tar file; each sample is `KEY.png` (or `.jpg`) and `KEY.cls` (the label as text)."""

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    images: Annotated[Count, Field(ge=1)]
    bytes: Count
    sha256: Checksum

    @model_validator(mode="after")
    def _is_plausible(self) -> Self:
        if UNPRINTABLE.search(self.name):
            raise PydanticCustomError("name", "name: has a control character")
        if self.images * MIN_SAMPLE_BYTES > self.bytes:
            raise PydanticCustomError("images", "images: more than fit into its bytes")
        return self


class Split(_Record):
    """The shards of the training images or of the held-out images."""

    images: Count
    class_counts: tuple[Count, ...]
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.images != sum(shard.images for shard in self.shards):
            raise PydanticCustomError("images", "images: not the sum over its shards")
        if self.images != sum(self.class_counts):
            raise PydanticCustomError("class_counts", "class_counts: their sum is not images")
        return self


class VerifiedShard(_Record):
    """A shard's file as it was when its checksum was found to be `sha256`. If it is still so, it is that shard."""

    name: str
    sha256: Checksum
    bytes: Count
    modified_ns: int
    changed_ns: int
    """Time of the last change of the file or its name (`st_ctime`), which no program can set."""


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

    format: Literal[1] = 1
    source: str
    resolution: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    balanced: bool = False
    """True if training images of small classes are repeated until all classes have the same size."""
    shuffled: bool = False
    """True if the images of each shard are in random order; earlier versions kept the order of parquet files."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    images: Count
    class_counts: tuple[Count, ...]
    splits: dict[str, Split]
    preprocessing: Preprocessing
    skipped: tuple[Skipped, ...] = ()
    verified: tuple[VerifiedShard, ...] = ()
    """Files that need no checksum while they are unchanged, of one copy of the data set or of several."""
    _access: Access = PrivateAttr(INSIDE)

    @property
    def access(self) -> Access:
        """Permissions of the shards' reader; not part of the file."""
        return self._access

    @property
    def shards(self) -> Iterator[Shard]:
        """The shards of all splits."""
        return (shard for split in self.splits.values() for shard in split.shards)

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if not ("train" in self.splits and self.splits["train"].images):
            raise PydanticCustomError("splits", "splits: no training images")
        counts = [split.class_counts for split in self.splits.values()]
        if any(len(some) != len(self.classes) for some in (self.class_counts, *counts)):
            raise PydanticCustomError("class_counts", "class_counts: not one for each class")
        if self.images != sum(split.images for split in self.splits.values()):
            raise PydanticCustomError("images", "images: not the sum over the splits")
        if self.class_counts != tuple(map(sum, zip(*counts, strict=True))):
            raise PydanticCustomError("class_counts", "class_counts: not the sum over the splits")
        names = [shard.name for shard in self.shards]
        if len(set(names)) < len(names):
            raise PydanticCustomError("splits", "splits: a shard is listed twice")
        return self

    def to_json(self) -> str:
        """Return the text of `dataset.json`."""
        return json.dumps(self.model_dump(), indent=1) + "\n"

    def with_access(self, root: str, access: Access) -> Self:
        """Return this data set, in the folder or URL `root`, for a reader with these permissions.

        Raises InputError if they do not allow a shard's place.
        """
        for shard in self.shards:
            shard_place(root, shard.name, access)
        allowed = self.model_copy()
        allowed._access = access
        return allowed


def described(read: Callable[[], bytes], origin: str, fix: str = PACK_AGAIN) -> Dataset:
    """Return the data set that the content of a `dataset.json` describes.

    Raises InputError, which begins with `origin` and ends with `fix`, if the content is damaged; and what `read` does.
    """
    try:
        return parse_json(read(), Dataset)
    except MalformedFile as malformed:
        raise InputError(f"{origin}: {malformed}; {fix}") from None


def load(folder: Path, access: Access = INSIDE) -> Dataset:
    """Read `folder`/dataset.json and check that every shard is a file in a place that `access` allows.

    Raises InputError, and OSError.
    """
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
    dataset = described(lambda: read_bytes(file), str(file)).with_access(str(folder), access)
    for shard in dataset.shards:
        place = shard_place(str(folder), shard.name, access)
        if isinstance(place, Path) and not place.is_file():
            raise InputError(f"{place}: shard is missing; delete {folder} and pack it again")
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


def shuffle_warnings(dataset: Dataset, *, buffer: int, per_batch: int) -> list[str]:
    """Return a warning, one line, if `buffer` samples of a stream are too few to shuffle the training shards.

    `per_batch` is the number of samples that a batch takes from a stream.
    """
    largest = max(shard.images for shard in dataset.splits["train"].shards)
    if buffer >= largest:
        return []
    if not dataset.shuffled:
        return [
            f"data.shuffle_buffer: {buffer}, but a shard holds up to {largest} images, perhaps class by class: earlier "
            f"versions packed parquet files so, and batches have few classes then; pack the data set again, or start "
            f"a run with data.shuffle_buffer={largest}"
        ]
    if buffer < (enough := min(largest, MIXED_BATCHES * per_batch)):
        return [
            f"data.shuffle_buffer: {buffer}, of which a batch takes {per_batch}, while a shard holds up to {largest}: "
            f"the same images are in one batch again in every epoch; start a run with data.shuffle_buffer={enough}"
        ]
    return []


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
