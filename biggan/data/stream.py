"""Samples from shards: a logical stream is a webdataset pipeline that yields samples endlessly.

Shards are shuffled by (seed, epoch) and divided over the streams. A stream's position is three integers, `Cursor`, from
which it resumes exactly.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image

from biggan.data.dataset import FILE_NAME, Dataset, Shard, described, load
from biggan.data.location import INSIDE, Access, check_starts_no_program, is_url, local_path, shard_place
from biggan.data.tar_members import tar_members
from biggan.errors import DataError, InputError
from biggan.files import MalformedFile, open_regular, read_bounded


class Cursor(NamedTuple):
    """The position of a stream: `offset` samples into the shuffled block with index `block` of `epoch`."""

    epoch: int
    block: int
    offset: int


START = Cursor(0, 0, 0)


@dataclass(frozen=True)
class Sample:
    """One sample as it passes through the stages, or the reason why it is unreadable."""

    epoch: int
    position: int
    """Index in the stream's epoch, counted over the sizes of its shards in `dataset.json`."""
    last: bool
    """True for the last sample of the stream's epoch."""
    name: str
    """SHARD/KEY, or SHARD#INDEX if the key could not be read."""
    fields: dict[str, Any] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    label: int = -1
    error: str | None = None
    next_cursor: Cursor = START
    """Position from which the stream resumes after this sample."""


@dataclass(frozen=True)
class ReadPlan:
    """The settings that the samples of all streams depend on."""

    root: str
    shards: tuple[Shard, ...]
    resolution: int
    channels: int
    """3 for RGB, 1 for grey."""
    classes: int
    streams: int
    shuffle_buffer: int
    horizontal_flip: bool
    seed: int
    max_bad_samples: int
    access: Access = INSIDE


def read_dataset(path: str, allow_pipe: bool, allow_outside: bool = False) -> Dataset:
    """Read `dataset.json` from a folder or URL; check that local shards exist and that every shard may be opened.

    Raise InputError that names `data.path`.
    """
    access = Access(allow_pipe, allow_outside)
    if not is_url(path):
        return load(Path(path), access)
    origin = f"{path.rstrip('/')}/{FILE_NAME}"
    place = local_path(origin)
    if place is None:
        check_starts_no_program(path, access)

    def read() -> bytes:
        try:
            with closing(_opened(place or origin)) as stream:
                return read_bounded(stream)
        except MalformedFile:
            raise
        except Exception as error:  # each URL scheme raises its own types
            raise InputError(f"data.path: {origin}: cannot be read ({error}); check the URL") from None

    return described(read, origin).with_access(path, access)


def _opened(place: Path | str) -> IO[bytes]:
    """Open a file or a URL that `shard_place` or `check_starts_no_program` has accepted."""
    stream: IO[bytes] = open_regular(place) if isinstance(place, Path) else wds.gopen(place)
    return stream


def stream_pipeline(plan: ReadPlan, stream: int, start: Cursor) -> wds.DataPipeline:
    """Return the endless samples of one logical stream from `start`, as a pipeline of stages."""
    return wds.DataPipeline(
        lambda: assign_shards(plan, stream, start),
        lambda shards: read_shards(plan, shards),
        lambda samples: shuffle_blocks(plan, samples, stream, start),
        lambda samples: decode(plan, samples),
        lambda samples: flip(plan, samples),
    )


class AssignedShard(NamedTuple):
    """A shard in one epoch of a stream."""

    epoch: int
    shard: Shard
    first_position: int
    """Position of its first sample in the stream's epoch."""
    skip: int
    """Number of samples to skip, after a resume."""
    last: bool
    """True for the last shard of the stream's epoch."""


def assign_shards(plan: ReadPlan, stream: int, start: Cursor) -> Iterator[AssignedShard]:
    """Yield every `streams`-th shard of each epoch's shuffled order, from the shard that contains the start block."""
    epoch, first_sample = start.epoch, start.block * plan.shuffle_buffer
    while True:
        order = list(plan.shards)
        random.Random(f"shards {plan.seed} {epoch}").shuffle(order)
        mine = order[stream :: plan.streams]
        position = 0
        for k, shard in enumerate(mine):
            skip = max(0, first_sample - position)
            if skip < shard.images:
                yield AssignedShard(epoch, shard, position, skip, last=k == len(mine) - 1)
            position += shard.images
        epoch, first_sample = epoch + 1, 0


def read_shards(plan: ReadPlan, shards: Iterable[AssignedShard]) -> Iterator[Sample]:
    """Read each tar; yield exactly one Sample per image declared in `dataset.json`, readable or not.

    Raise DataError if a shard is missing or not a tar. Samples are counted because webdataset ends silently if a tar is
    truncated inside a header.
    """
    for epoch, shard, first, skip, last_shard in shards:
        place = shard_place(plan.root, shard.name, plan.access)
        reasons: list[str] = []
        index = -1
        for index, fields in enumerate(_read_tar(place, reasons)):
            if index >= shard.images:
                break
            if index >= skip:
                last = last_shard and index == shard.images - 1
                name = f"{shard.name}/{fields['__key__']}"
                yield Sample(epoch, first + index, last, name, fields)
        reason = reasons[0] if reasons else "the shard is truncated"
        if index < 0:
            raise DataError(f"{place}: shard is missing or not a tar file ({reason})")
        for lost in range(max(index + 1, skip), shard.images):
            last = last_shard and lost == shard.images - 1
            yield Sample(epoch, first + lost, last, f"{shard.name}#{lost}", error=reason)


def _read_tar(place: Path | str, reasons: list[str]) -> Iterator[dict[str, Any]]:
    """Yield webdataset's samples of one shard; append the error that ends it early to `reasons`."""

    def record(error: Exception) -> bool:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{place}: shard is missing")
        reason = getattr(error, "strerror", None) or (error.args[0] if error.args else error)
        reasons.append(f"{type(error).__name__}: {reason}")
        return True

    def files() -> Iterator[dict[str, Any]]:
        try:
            with closing(_opened(place)) as stream:
                for name, content in tar_members(stream):
                    yield {"fname": name, "data": content, "__url__": str(place)}
        except Exception as error:  # each URL scheme raises its own types
            record(error)

    yield from wds.tariterators.group_by_keys(files(), suffixes={"png", "jpg", "cls"}, handler=record)


def label_counts(root: str, shard: Shard, access: Access) -> Counter[str]:
    """Count the labels, as text, of all samples of a shard; raise DataError if it cannot be read to its end."""
    place, reasons = shard_place(root, shard.name, access), list[str]()
    counts = Counter(fields.get("cls", b"").decode(errors="replace").strip() for fields in _read_tar(place, reasons))
    if reasons:
        raise DataError(f"{place}: {reasons[0]}")
    return counts


def shuffle_blocks(plan: ReadPlan, samples: Iterable[Sample], stream: int, start: Cursor) -> Iterator[Sample]:
    """Shuffle each block of `shuffle_buffer` consecutive samples, keyed by (seed, stream, epoch, block).

    Unlike a running shuffle buffer, a block can be rebuilt from its index alone.
    """
    block: list[Sample] = []
    offset = start.offset
    for sample in samples:
        block.append(sample)
        number = sample.position // plan.shuffle_buffer
        if not sample.last and (sample.position + 1) % plan.shuffle_buffer:
            continue
        random.Random(f"block {plan.seed} {stream} {sample.epoch} {number}").shuffle(block)
        following = Cursor(sample.epoch + 1, 0, 0) if sample.last else Cursor(sample.epoch, number + 1, 0)
        for k in range(offset, len(block)):
            next_cursor = following if k + 1 == len(block) else Cursor(sample.epoch, number, k + 1)
            yield replace(block[k], next_cursor=next_cursor)
        block, offset = [], 0


def decode(plan: ReadPlan, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Decode the image and the label of each sample; no other field is read, and nothing is ever unpickled."""
    size = (plan.resolution, plan.resolution)
    for sample in samples:
        if sample.error is not None:
            yield sample
            continue
        try:
            data = sample.fields.get("png") or sample.fields["jpg"]
            # Other formats of Pillow's run programs (EPS: Ghostscript). The size is checked before memory is used.
            image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
            label = int(sample.fields["cls"])
            if image.size != size or not 0 <= label < plan.classes:
                raise ValueError(f"image {image.size}, label {label}; expected {size}, below {plan.classes}")
            pixels = np.atleast_3d(np.asarray(image.convert("L" if plan.channels == 1 else "RGB")))
            yield replace(sample, image=pixels, label=label, fields={})
        except Exception as error:  # Pillow's decoders raise nearly any type for a corrupt image
            yield replace(sample, fields={}, error=f"{type(error).__name__}: {error}")


def flip(plan: ReadPlan, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Flip half of the images horizontally, keyed by (seed, epoch, sample)."""
    for sample in samples:
        if plan.horizontal_flip and sample.image is not None:
            key = f"{plan.seed} {sample.epoch} {sample.name}"
            if hashlib.blake2b(key.encode(), digest_size=1).digest()[0] & 1:
                sample = replace(sample, image=sample.image[:, ::-1])
        yield sample
