"""Shards to samples: the endless samples of one logical stream, as a webdataset pipeline of visible stages.

Shards are ordered by (seed, epoch) and dealt to the streams. A stream's place is three integers, `Cursor`, from which
it goes on exactly.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image

from biggan.data.dataset import FILE_NAME, Dataset, Shard, load, parse
from biggan.errors import DataError, InputError


class Cursor(NamedTuple):
    """Where a stream goes on: `offset` samples into the shuffled block number `block` of `epoch`."""

    epoch: int
    block: int
    offset: int


START = Cursor(0, 0, 0)


@dataclass(frozen=True)
class Sample:
    """One sample on its way through the stages, or the reason why there is none."""

    epoch: int
    position: int
    """Place in the stream's epoch, counted over the declared sizes of its shards."""
    last: bool
    """Whether the stream's epoch ends with it."""
    name: str
    """SHARD/KEY, or SHARD#INDEX where the key could not be read."""
    fields: dict[str, Any] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    label: int = -1
    error: str | None = None
    after: Cursor = START
    """Where the stream goes on after this sample."""


@dataclass(frozen=True)
class ReadPlan:
    """What the samples of every stream depend on."""

    root: str
    shards: tuple[Shard, ...]
    resolution: int
    channels: int
    """3, or 1 for grey."""
    classes: int
    streams: int
    shuffle_buffer: int
    horizontal_flip: bool
    seed: int
    max_bad_samples: int


def read_dataset(path: str, allow_pipe: bool) -> Dataset:
    """Read `dataset.json` from a folder or URL, check that local shards exist and pipes are allowed."""
    if urlparse(path).scheme == "pipe" or "://" in path:
        _refuse_pipe(path, allow_pipe)
        origin = f"{path.rstrip('/')}/{FILE_NAME}"
        try:
            with wds.gopen(origin) as stream:
                text = stream.read().decode()
        except Exception as error:  # each URL scheme has errors of its own
            raise InputError(f"data.path: {origin}: cannot be read ({error})") from None
        dataset = parse(text, origin)
    else:
        dataset = load(Path(path))
    for split in dataset.splits.values():
        for shard in split.shards:
            _refuse_pipe(shard.name, allow_pipe)
    return dataset


def _refuse_pipe(url: str, allow_pipe: bool) -> None:
    if urlparse(url).scheme == "pipe" and not allow_pipe:
        raise InputError(f"data.path: '{url}' runs a shell command; set data.allow_pipe=true if you mean it")


def stream_pipeline(plan: ReadPlan, stream: int, start: Cursor) -> wds.DataPipeline:
    """The endless samples of one logical stream from `start` on: its stages, in order."""
    return wds.DataPipeline(
        lambda: deal_shards(plan, stream, start),
        lambda shards: read_shards(plan, shards),
        lambda samples: shuffle_blocks(plan, samples, stream, start),
        lambda samples: decode(plan, samples),
        lambda samples: flip(plan, samples),
    )


class DealtShard(NamedTuple):
    """A shard in a stream's epoch: where it begins there, how many samples to skip, whether it is the last."""

    epoch: int
    shard: Shard
    first_position: int
    skip: int
    last: bool


def deal_shards(plan: ReadPlan, stream: int, start: Cursor) -> Iterator[DealtShard]:
    """Every `streams`-th shard of each epoch's order; begins at the shard that holds the start block."""
    epoch, begin = start.epoch, start.block * plan.shuffle_buffer
    while True:
        order = list(plan.shards)
        random.Random(f"shards {plan.seed} {epoch}").shuffle(order)
        mine = order[stream :: plan.streams]
        position = 0
        for k, shard in enumerate(mine):
            skip = max(0, begin - position)
            if skip < shard.images:
                yield DealtShard(epoch, shard, position, skip, last=k == len(mine) - 1)
            position += shard.images
        epoch, begin = epoch + 1, 0


def read_shards(plan: ReadPlan, shards: Iterable[DealtShard]) -> Iterator[Sample]:
    """Walk each tar; exactly one Sample per image `dataset.json` declares, damaged or not.

    webdataset ends silently where a tar is cut inside a header, hence the counting.
    """
    for epoch, shard, first, skip, last_shard in shards:
        url = shard.name if ":" in shard.name else f"{plan.root}/{shard.name}"
        reasons: list[str] = []
        index = -1
        for index, fields in enumerate(_walk_tar(url, reasons)):
            if index >= shard.images:
                break
            if index >= skip:
                last = last_shard and index == shard.images - 1
                name = f"{shard.name}/{fields['__key__']}"
                yield Sample(epoch, first + index, last, name, fields)
        reason = reasons[0] if reasons else "the shard ends early"
        if index < 0:
            raise DataError(f"{url}: shard is missing or not a tar file ({reason})")
        for lost in range(max(index + 1, skip), shard.images):
            last = last_shard and lost == shard.images - 1
            yield Sample(epoch, first + lost, last, f"{shard.name}#{lost}", error=reason)


def _walk_tar(url: str, reasons: list[str]) -> Iterator[dict[str, Any]]:
    """webdataset's samples of one shard; what stops it early is added to `reasons`."""

    def note(error: Exception) -> bool:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{url}: shard is missing")
        reasons.append(f"{type(error).__name__}: {error.args[0] if error.args else error}")
        return True

    yield from wds.tariterators.tarfile_samples(iter([{"url": url}]), handler=note)


def shuffle_blocks(plan: ReadPlan, samples: Iterable[Sample], stream: int, start: Cursor) -> Iterator[Sample]:
    """Shuffle each block of `shuffle_buffer` consecutive samples, keyed by (seed, stream, epoch, block).

    Unlike a running buffer, a block can be made again from its number alone.
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
            after = following if k + 1 == len(block) else Cursor(sample.epoch, number, k + 1)
            yield replace(block[k], after=after)
        block, offset = [], 0


def decode(plan: ReadPlan, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Decode the image and the label, and nothing else a shard may hold: no field is ever unpickled."""
    shape = (plan.resolution, plan.resolution, plan.channels)
    for sample in samples:
        if sample.error is not None:
            yield sample
            continue
        try:
            data = sample.fields.get("png") or sample.fields["jpg"]
            image = np.atleast_3d(
                np.asarray(Image.open(io.BytesIO(data)).convert("L" if plan.channels == 1 else "RGB"))
            )
            label = int(sample.fields["cls"])
            if image.shape != shape or not 0 <= label < plan.classes:
                raise ValueError(f"image {image.shape}, label {label}; expected {shape}, below {plan.classes}")
            yield replace(sample, image=image, label=label, fields={})
        except Exception as error:  # a damaged image can raise nearly anything in its decoder
            yield replace(sample, fields={}, error=f"{type(error).__name__}: {error}")


def flip(plan: ReadPlan, samples: Iterable[Sample]) -> Iterator[Sample]:
    """Mirror half of the images, keyed by (seed, epoch, sample)."""
    for sample in samples:
        if plan.horizontal_flip and sample.image is not None:
            key = f"{plan.seed} {sample.epoch} {sample.name}"
            if hashlib.blake2b(key.encode(), digest_size=1).digest()[0] & 1:
                sample = replace(sample, image=sample.image[:, ::-1])
        yield sample
