"""Packing: square images, written into tar shards by several processes.

Each shard is a pure function of (source, plan, shard number). It is written under a temporary name and renamed. A
journal in the destination lists the finished shards, and `dataset.json` is written last. So packing can be interrupted
at any point and resumed, and never looks complete before it is.
"""

from __future__ import annotations

import hashlib
import io
import math
import multiprocessing
import random
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Literal, NamedTuple

from biggan.data.child_process import tie_to_parent
from biggan.data.dataset import FILE_NAME, Dataset, Preprocessing, Shard, Skipped, Split
from biggan.data.image import COLOUR, CROPS, encode, square
from biggan.data.journal import PackedShard, close_journal, open_journal, record_shard
from biggan.data.sources.image_source import ImageSource, printable
from biggan.data.sources.selection import SelectionRequest, open_selection
from biggan.errors import InputError
from biggan.files import sha256_of, sync_file, write_atomically
from biggan.folder_lock import FolderLock
from biggan.stop_signals import signals_blocked

HELD_BYTES = 64 * 2**20
"""Encoded images of a shard that a packing process holds in memory. Further ones wait in a file without a name."""
SHARD_ORDER = "shuffled"
"""Entry of the journal: earlier versions packed parquet files in their own order, and their packs are not resumed."""


@dataclass(frozen=True)
class Plan:
    """All settings that the shards' bytes depend on. The field names are stored in packing.jsonl."""

    wanted: SelectionRequest
    resolution: int
    encoding: str = "png"
    """`png` or `jpeg`."""
    val_fraction: float = 0.0
    shards: int = 0
    """Number of training shards; 0: `default_shards`."""
    crop: str = "centre"
    """A key of `image.CROPS`."""
    channels: Literal[1, 3] = 3
    """3 for RGB, 1 for grey."""
    balance: bool = False
    """True to repeat the training images of small classes until every class is as large as the largest."""


class Entry(NamedTuple):
    """An entry of a split: the index of an item, and the index of its copy."""

    item: int
    copy: int


@cache
def split_entries(plan: Plan) -> dict[str, list[Entry]]:
    """Return the shuffled entries of "train" and, if any items are held out, of "val".

    The result is cached: a packing process needs it for each of its shards.
    """
    source = open_selection(plan.wanted)
    shuffled = list(range(len(source.names)))
    random.Random("biggan pack").shuffle(shuffled)
    held_out = {
        item
        for items in _by_class(source, shuffled)
        for item in items[: min(round(len(items) * plan.val_fraction), len(items) - 1)]  # keep one for training
    }
    train, val = ([i for i in shuffled if (i in held_out) is held] for held in (False, True))
    entries = _balanced(_by_class(source, train)) if plan.balance else [Entry(item, 0) for item in train]
    return {"train": entries, "val": [Entry(item, 0) for item in val]} if val else {"train": entries}


def _by_class(source: ImageSource, items: list[int]) -> list[list[int]]:
    """Group the items by class; classes without items are left out."""
    by_class: dict[int, list[int]] = {}
    for item in items:
        by_class.setdefault(source.labels[item], []).append(item)
    return list(by_class.values())


def _balanced(by_class: list[list[int]]) -> list[Entry]:
    """Repeat items until every class has as many entries as the largest.

    The numbers of copies of a class's items differ by at most one. The entries are shuffled again to spread the copies.
    """
    most = max(len(items) for items in by_class)
    entries = [Entry(items[k % len(items)], k // len(items)) for items in by_class for k in range(most)]
    random.Random("biggan pack, balanced").shuffle(entries)
    return entries


def default_shards(images: int) -> int:
    """Return a power of two from 16 to 1024, for about 1,000 images per shard; streams then divide evenly."""
    return int(min(1024, max(16, 2 ** math.ceil(math.log2(max(images, 1) / 1000)))))


@dataclass(frozen=True)
class PackingJob:
    """A pack whose source and destination have been checked; some of its shards may be finished."""

    plan: Plan
    dest: Path
    source: ImageSource
    finished: dict[tuple[str, int], PackedShard]
    lock: FolderLock
    """Ownership of `dest`; `run` gives it up."""

    @property
    def images(self) -> int:
        """Number of images to write, including copies and images that may prove unreadable."""
        return sum(len(entries) for entries in split_entries(self.plan).values())

    def run(self, workers: int, on_shard: Callable[[PackedShard], None]) -> Dataset:
        """Pack the unfinished shards on `workers` processes; return the data set.

        `on_shard` is called for every shard, for the already finished ones first. Raise InputError if the disk is full
        or no image could be read.
        """
        with self.lock:
            return self._run(workers, on_shard)

    def _run(self, workers: int, on_shard: Callable[[PackedShard], None]) -> Dataset:
        for packed in self.finished.values():
            on_shard(packed)
        todo = [key for key in shard_keys(self.plan) if key not in self.finished]
        try:
            for packed in _pack_shards(self.plan, self.dest, todo, workers):
                record_shard(self.dest, packed)
                self.finished[packed.split, packed.number] = packed
                on_shard(packed)
            dataset = _describe(self.plan, self.source, [self.finished[key] for key in sorted(self.finished)])
            write_atomically(self.dest / FILE_NAME, dataset.to_json())
            close_journal(self.dest)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.dest}: {reason}; free disk space and run the same command again") from None
        return dataset


def start_packing(plan: Plan, dest: Path) -> PackingJob:
    """Open the source and start or resume the pack in `dest`; raise InputError if either is unusable."""
    source = open_selection(plan.wanted)
    images = len(split_entries(plan)["train"]) if plan.balance else len(source.names)
    if not plan.shards:
        plan = replace(plan, shards=min(default_shards(images), images))
    if plan.shards > images:
        raise InputError(f"--shards: {plan.shards} shards for {images} images; use {images} or fewer")
    shard_keys(plan)  # computes the splits before the journal is created
    listing = hashlib.sha256(repr((source.classes, source.names, source.labels)).encode()).hexdigest()
    lock = FolderLock(dest, "DEST").acquire()
    try:
        settings = {"plan": asdict(plan), "source_sha256": listing, "order": SHARD_ORDER}
        finished = open_journal(dest, settings)
    except InputError:
        lock.release()
        raise
    return PackingJob(plan, dest, source, finished, lock)


def shard_keys(plan: Plan) -> list[tuple[str, int]]:
    """Return (split, number) of every shard; the number of "val" shards is proportional to its images."""
    splits = split_entries(plan)
    keys = [("train", k) for k in range(min(plan.shards, len(splits["train"])))]
    if "val" in splits:
        ratio = len(splits["val"]) / len(splits["train"])
        keys += [("val", k) for k in range(max(1, math.ceil(plan.shards * ratio)))]
    return keys


def _pack_shards(plan: Plan, dest: Path, todo: list[tuple[str, int]], workers: int) -> Iterator[PackedShard]:
    if workers <= 1:
        yield from (pack_shard(plan, dest, *key) for key in todo)
        return
    # Spawn, do not fork: the parent shows progress from a thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=tie_to_parent) as pool:
        with signals_blocked():  # it starts the processes, which take a second to ignore them
            futures = [pool.submit(pack_shard, plan, dest, *key) for key in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def pack_shard(plan: Plan, dest: Path, split: str, number: int) -> PackedShard:
    """Write shard `number` of `split` in `dest`; the bytes depend on the arguments and the source alone.

    Images are read in the order of the source, which may be by class, and written in the random order of the split.
    """
    source = open_selection(plan.wanted)
    shards = sum(1 for name, _ in shard_keys(plan) if name == split)
    entries = split_entries(plan)[split][number::shards]
    path = dest / f"{split}-{number:05d}.tar"
    partial = path.with_suffix(".partial")
    labels: dict[int, int] = {}
    skipped: list[tuple[str, str]] = []
    with SpooledTemporaryFile(HELD_BYTES, dir=str(dest)) as held:
        items = sorted({entry.item for entry in entries})
        converted = {item: _convert(plan, source, item, held) for item in items}
        with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for item, copy in entries:
                image = converted[item]
                if isinstance(image, str):
                    skipped.append((source.names[item], image))
                    continue
                held.seek(image.start)
                data = held.read(len(image))
                label = source.labels[item]
                labels[label] = labels.get(label, 0) + 1
                _add(tar, f"{item:09d}-{copy}" if copy else f"{item:09d}", data, plan.encoding, label)
    sync_file(partial)
    partial.replace(path)
    found = path.stat()  # before its bytes are read: a change from now on is noticed
    return PackedShard(
        split, number, path.name, labels, found.st_size, sha256_of(path), skipped, found.st_mtime_ns, found.st_ctime_ns
    )


def _convert(plan: Plan, source: ImageSource, item: int, held: IO[bytes]) -> range | str:
    """Append the encoded image of an item to `held`; return its place there, or the reason why it is unreadable."""
    try:
        data = encode(square(source.read(item), plan.resolution, plan.crop, plan.channels), plan.encoding)
    except Exception as error:  # Pillow's decoders raise nearly any type for a corrupt image
        return printable(" ".join(str(error).split())) or type(error).__name__
    start = held.tell()
    held.write(data)
    return range(start, start + len(data))


def _add(tar: tarfile.TarFile, key: str, image: bytes, encoding: str, label: int) -> None:
    suffix = {"png": "png", "jpeg": "jpg"}[encoding]
    for name, content in ((f"{key}.{suffix}", image), (f"{key}.cls", str(label).encode())):
        info = tarfile.TarInfo(name)  # no mtime, no owner: equal inputs give equal bytes
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _describe(plan: Plan, source: ImageSource, shards: list[PackedShard]) -> Dataset:
    origin = printable(", ".join(plan.wanted.sources))
    unreadable = dict(pair for s in shards for pair in s.skipped)  # one entry per image, not per copy
    if not any(s.images for s in shards if s.split == "train"):
        reason = next(iter(unreadable.values()))
        raise InputError(f"{origin}: none of its images for training could be read; first: {reason}")

    def counts(some: list[PackedShard]) -> tuple[int, ...]:
        return tuple(sum(s.labels.get(k, 0) for s in some) for k in range(len(source.classes)))

    splits = {}
    for name in dict.fromkeys(s.split for s in shards):
        own = [s for s in shards if s.split == name and s.images]
        records = tuple(Shard(name=s.name, images=s.images, bytes=s.bytes, sha256=s.sha256) for s in own)
        splits[name] = Split(images=sum(s.images for s in own), class_counts=counts(own), shards=records)
    return Dataset(
        source=origin,
        resolution=plan.resolution,
        channels=plan.channels,
        balanced=plan.balance,
        shuffled=True,
        classes=tuple(source.classes),
        images=sum(s.images for s in shards),
        class_counts=counts(shards),
        splits=splits,
        preprocessing=Preprocessing(
            crop=CROPS[plan.crop],
            resize="Lanczos with antialiasing (Pillow)",
            encoding=plan.encoding,
            colour=COLOUR[plan.channels],
        ),
        skipped=tuple(Skipped(path=path, reason=reason) for path, reason in unreadable.items()),
        verified=tuple(s.verified for s in shards if s.images),
    )
