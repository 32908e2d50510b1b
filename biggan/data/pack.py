"""Images to shards: made square, and written into tar files, many shards at a time.

Each shard is a pure function of (source, plan, shard number), written beside its place and renamed; a journal
in the destination remembers the finished ones, and `dataset.json` is written last. So a pack can be
interrupted anywhere and run again, and never looks whole before it is.
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
from typing import Literal, NamedTuple

from biggan.data.dataset import FILE_NAME, Dataset, Preprocessing, Shard, Skipped, Split
from biggan.data.image import COLOUR, CROPS, encode, square
from biggan.data.journal import Packed, close_journal, open_journal, remember
from biggan.data.sources.image_source import ImageSource, printable
from biggan.data.sources.selection_request import SelectionRequest, open_selection
from biggan.errors import InputError
from biggan.files import sha256_of, sync_file, write_atomically


@dataclass(frozen=True)
class Plan:
    """Everything the bytes of the shards depend on, besides the sources' own."""

    wanted: SelectionRequest
    resolution: int
    encoding: str = "png"
    """`png` or `jpeg`."""
    val_fraction: float = 0.0
    shards: int = 0
    """Of the training images; 0: `default_shards`."""
    crop: str = "centre"
    """A key of `image.CROPS`."""
    channels: Literal[1, 3] = 3
    """3, or 1 for grey."""
    balance: bool = False
    """Repeat the training images of small classes until every class is as large as the largest."""


class Entry(NamedTuple):
    """An item's place in a split: the item, and which of its copies this is."""

    item: int
    copy: int


@cache
def split_entries(plan: Plan) -> dict[str, list[Entry]]:
    """The entries of "train" and, if any items are held out, "val"; both mixed over classes.

    Cached: a packing process needs it for each of its shards.
    """
    source = open_selection(plan.wanted)
    mixed = list(range(len(source.names)))
    random.Random("biggan pack").shuffle(mixed)
    held_out = {
        item
        for items in _by_class(source, mixed)
        for item in items[: min(round(len(items) * plan.val_fraction), len(items) - 1)]  # one is left to train on
    }
    train, val = ([i for i in mixed if (i in held_out) is held] for held in (False, True))
    entries = _balanced(_by_class(source, train)) if plan.balance else [Entry(item, 0) for item in train]
    return {"train": entries, "val": [Entry(item, 0) for item in val]} if val else {"train": entries}


def _by_class(source: ImageSource, items: list[int]) -> list[list[int]]:
    """The items of each class that has any."""
    by_class: dict[int, list[int]] = {}
    for item in items:
        by_class.setdefault(source.labels[item], []).append(item)
    return list(by_class.values())


def _balanced(by_class: list[list[int]]) -> list[Entry]:
    """As many entries of each class as the largest has; no item stands there twice more often than another of it.

    Mixed once more, so that the copies of an image lie apart.
    """
    most = max(len(items) for items in by_class)
    entries = [Entry(items[k % len(items)], k // len(items)) for items in by_class for k in range(most)]
    random.Random("biggan pack, balanced").shuffle(entries)
    return entries


def default_shards(images: int) -> int:
    """About a thousand images a shard, a power of two from 16 to 1024: streams then divide evenly."""
    return int(min(1024, max(16, 2 ** math.ceil(math.log2(max(images, 1) / 1000)))))


@dataclass(frozen=True)
class Packing:
    """A pack that may run: its source can be read, its destination written, and some of it may be done."""

    plan: Plan
    dest: Path
    source: ImageSource
    finished: dict[tuple[str, int], Packed]

    @property
    def images(self) -> int:
        """Images to write, readable or not; copies count."""
        return sum(len(entries) for entries in split_entries(self.plan).values())

    def run(self, workers: int, on_shard: Callable[[Packed], None]) -> Dataset:
        """Pack what is not finished, on `workers` processes; `on_shard` hears of every shard, old ones first.

        Raises InputError if the disk is full or no image could be read.
        """
        for packed in self.finished.values():
            on_shard(packed)
        todo = [key for key in shard_keys(self.plan) if key not in self.finished]
        try:
            for packed in _pack_shards(self.plan, self.dest, todo, workers):
                remember(self.dest, packed)
                self.finished[packed.split, packed.number] = packed
                on_shard(packed)
            dataset = _describe(self.plan, self.source, [self.finished[key] for key in sorted(self.finished)])
            write_atomically(self.dest / FILE_NAME, dataset.to_json())
            close_journal(self.dest)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.dest}: {reason}; free some room and run the same command again") from None
        return dataset


def begin(plan: Plan, dest: Path) -> Packing:
    """Open the source and begin, or go on with, the pack in `dest`; raises InputError if either cannot be used."""
    source = open_selection(plan.wanted)
    images = len(split_entries(plan)["train"]) if plan.balance else len(source.names)
    if not plan.shards:
        plan = replace(plan, shards=min(default_shards(images), images))
    if plan.shards > images:
        raise InputError(f"--shards: {plan.shards} shards for {images} images; use fewer")
    shard_keys(plan)  # raises InputError if the plan cannot be followed
    listing = hashlib.sha256(repr((source.classes, source.names, source.labels)).encode()).hexdigest()
    return Packing(plan, dest, source, open_journal(dest, {"plan": asdict(plan), "source_sha256": listing}))


def shard_keys(plan: Plan) -> list[tuple[str, int]]:
    """(split, number) of every shard; held-out images get shards in proportion."""
    splits = split_entries(plan)
    keys = [("train", k) for k in range(min(plan.shards, len(splits["train"])))]
    if "val" in splits:
        share = len(splits["val"]) / len(splits["train"])
        keys += [("val", k) for k in range(max(1, math.ceil(plan.shards * share)))]
    return keys


def _pack_shards(plan: Plan, dest: Path, todo: list[tuple[str, int]], workers: int) -> Iterator[Packed]:
    if workers <= 1:
        yield from (pack_shard(plan, dest, *key) for key in todo)
        return
    # Spawned, not forked: the parent shows progress from a thread.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(pack_shard, plan, dest, *key) for key in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def pack_shard(plan: Plan, dest: Path, split: str, number: int) -> Packed:
    """Write one shard of `dest`; the same bytes whenever and wherever it is called."""
    source = open_selection(plan.wanted)
    of = sum(1 for name, _ in shard_keys(plan) if name == split)
    entries = split_entries(plan)[split][number::of]
    if source.in_groups:
        entries = sorted(entries)  # so that each group is read once; the loader shuffles what it reads
    path = dest / f"{split}-{number:05d}.tar"
    partial = path.with_suffix(".partial")
    labels: dict[int, int] = {}
    skipped: list[tuple[str, str]] = []
    with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item, copy in entries:
            try:
                data = encode(square(source.read(item), plan.resolution, plan.crop, plan.channels), plan.encoding)
            except Exception as error:  # a damaged image can raise nearly anything in its decoder
                reason = printable(" ".join(str(error).split()))
                skipped.append((source.names[item], reason or type(error).__name__))
                continue
            label = source.labels[item]
            labels[label] = labels.get(label, 0) + 1
            _add(tar, f"{item:09d}-{copy}" if copy else f"{item:09d}", data, plan.encoding, label)
    sync_file(partial)
    partial.replace(path)
    return Packed(split, number, path.name, labels, path.stat().st_size, sha256_of(path), skipped)


def _add(tar: tarfile.TarFile, key: str, image: bytes, encoding: str, label: int) -> None:
    suffix = {"png": "png", "jpeg": "jpg"}[encoding]
    for name, content in ((f"{key}.{suffix}", image), (f"{key}.cls", str(label).encode())):
        info = tarfile.TarInfo(name)  # no time, no owner: equal inputs give equal bytes
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _describe(plan: Plan, source: ImageSource, shards: list[Packed]) -> Dataset:
    origin = printable(", ".join(plan.wanted.sources))
    unreadable = dict(pair for s in shards for pair in s.skipped)  # once, however many copies there are
    if not any(s.images for s in shards):
        reason = next(iter(unreadable.values()))
        raise InputError(f"{origin}: none of its {len(unreadable)} images could be read; {reason}")

    def counts(of: list[Packed]) -> tuple[int, ...]:
        return tuple(sum(s.labels.get(k, 0) for s in of) for k in range(len(source.classes)))

    splits = {}
    for name in dict.fromkeys(s.split for s in shards):
        of = [s for s in shards if s.split == name and s.images]
        records = tuple(Shard(name=s.name, images=s.images, bytes=s.bytes, sha256=s.sha256) for s in of)
        splits[name] = Split(images=sum(s.images for s in of), class_counts=counts(of), shards=records)
    return Dataset(
        source=origin,
        resolution=plan.resolution,
        channels=plan.channels,
        balanced=plan.balance,
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
    )
