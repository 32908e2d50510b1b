"""Shards to batches: a webdataset pipeline over a fixed number of logical streams.

Shards are ordered by (seed, epoch) and dealt to the streams; every global batch takes the same number of
samples from each stream; every rank, and every reading process in it, serves neighbouring streams. So the
global batches depend on the config alone, not on how many processes or readers there are, and a stream's
place is three integers, `Cursor`, from which it goes on exactly.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from biggan.data.dataset import FILE_NAME, Dataset, Shard, load, parse
from biggan.distributed.threads import wait_for_other_threads
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


@dataclass(frozen=True)
class Part:
    """What one reading process adds to a micro-batch. Arrays: each tensor would cross processes as a file
    descriptor, which costs the training process more than the bytes of a small part do."""

    images: NDArray[np.uint8]
    """[n, R, R, C]."""
    labels: NDArray[np.int64]
    """[n]."""
    names: list[str]
    cursors: list[Cursor]
    """Of its streams, after these samples."""
    bad: dict[str, str]
    """Unreadable samples met on the way: name -> reason."""
    fatal: str | None = None
    """Why reading cannot go on; the other fields are empty then."""


class StreamReader(IterableDataset[Part]):
    """The endless parts of some neighbouring streams, shared out over this loader's reading processes."""

    def __init__(self, plan: ReadPlan, streams: range, cursors: list[Cursor], per_stream: int):
        super().__init__()
        self.plan, self.streams, self.cursors, self.per_stream = plan, streams, cursors, per_stream

    def __iter__(self) -> Iterator[Part]:
        worker = get_worker_info()
        share, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        mine = range(len(self.streams) * share // of, len(self.streams) * (share + 1) // of)
        cursors = [self.cursors[k] for k in mine]
        pipelines = [iter(stream_pipeline(self.plan, self.streams[k], self.cursors[k])) for k in mine]
        try:
            while True:
                yield self._part(pipelines, cursors)
        except DataError as error:  # as a value: an exception would cross processes as a page of traceback
            yield Part(np.empty(0, np.uint8), np.empty(0, np.int64), [], [], {}, fatal=str(error))

    def _part(self, pipelines: list[Iterator[Sample]], cursors: list[Cursor]) -> Part:
        taken: list[Sample] = []
        bad: dict[str, str] = {}
        misses = 0
        for k, pipeline in enumerate(pipelines):
            wanted = len(taken) + self.per_stream
            while len(taken) < wanted:
                sample = next(pipeline)
                cursors[k] = sample.after
                if sample.error is None:
                    taken.append(sample)
                    continue
                bad[sample.name] = sample.error
                misses += 1
                if len(bad) > self.plan.max_bad_samples:
                    raise DataError(too_many_bad(len(bad), self.plan.max_bad_samples, bad))
                if misses > sum(shard.images for shard in self.plan.shards):
                    raise DataError(f"a stream has no readable sample; first: {next(iter(bad.items()))}")
        images = np.stack([s.image for s in taken if s.image is not None])
        labels = np.array([s.label for s in taken], np.int64)
        return Part(images, labels, [s.name for s in taken], list(cursors), bad)


def too_many_bad(count: int, limit: int, bad: dict[str, str]) -> str:
    """The message that ends a run whose data is damaged."""
    name, reason = next(iter(bad.items()))
    return f"data.max_bad_samples: {count} unreadable samples, at most {limit} allowed; first: {name}: {reason}"


def _live_as_long_as_the_parent(_worker: int) -> None:
    """A terminal's Ctrl-C or a scheduler's SIGTERM reaches readers too; training ends them, or its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Where it was killed, nobody empties the pipe that this process may be writing to, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a reader is a child"
    parent.join()
    os._exit(1)


class Loader:
    """This rank's micro-batches, without end: an iterator. Close it when done.

    `cursors` (of this rank's streams) and `bad` (unreadable samples met so far) belong to the batches
    handed out, not to those read ahead.
    """

    def __init__(
        self,
        plan: ReadPlan,
        *,
        micro_batch_size: int,
        cursors: list[Cursor],
        rank: int,
        world_size: int,
        workers: int,
    ):
        assert len(cursors) == plan.streams, "one cursor per stream"
        assert plan.streams % world_size == 0, "the config checked this"
        assert micro_batch_size % plan.streams == 0, "the config checked this"
        share = plan.streams // world_size
        streams = range(rank * share, (rank + 1) * share)
        self.cursors = cursors[streams.start : streams.stop]
        self.bad: dict[str, str] = {}
        self.names: list[str] = []
        """Of the samples in the batch handed out last."""
        self._readers = min(workers, share)
        others = set(multiprocessing.active_children())
        if self._readers:
            wait_for_other_threads()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # on purpose: `data.workers`
            parts = DataLoader(
                StreamReader(plan, streams, self.cursors, micro_batch_size // plan.streams),
                batch_size=None,
                num_workers=self._readers,
                prefetch_factor=4 if self._readers else None,
                worker_init_fn=_live_as_long_as_the_parent,
            )
            # Here, so that the readers are forked before whatever threads the caller starts next.
            self._parts = iter(parts)
        self._processes = set(multiprocessing.active_children()) - others

    def close(self) -> None:
        """End the readers: an error on its way out would keep them, and they this process, alive."""
        shutdown = getattr(self._parts, "_shutdown_workers", None)  # torch calls it from __del__ only
        if shutdown is not None:
            shutdown()
        for process in self._processes:
            process.kill()  # one that hangs in a read; they do not hear SIGTERM

    def __next__(self) -> tuple[Tensor, Tensor]:
        """(images uint8 [n, C, R, R] in channels-last memory, labels int64 [n]); raises DataError."""
        # The parts of the readers come in turn, hence in the order of their streams.
        batch = [next(self._parts) for _ in range(max(1, self._readers))]
        for part in batch:
            if part.fatal is not None:
                raise DataError(part.fatal)
        self.cursors = [cursor for part in batch for cursor in part.cursors]
        self.names = [name for part in batch for name in part.names]
        for part in batch:
            self.bad |= part.bad
        images = torch.from_numpy(np.concatenate([part.images for part in batch]))
        labels = torch.from_numpy(np.concatenate([part.labels for part in batch]))
        return images.permute(0, 3, 1, 2), labels

    def __iter__(self) -> Loader:
        return self


def to_unit(images: Tensor) -> Tensor:
    """uint8, as the loader gives them -> float32 in [-1, 1], as the networks take them."""
    return images.to(torch.float32).div_(127.5).sub_(1)
