"""Images to shards: decode, centre-crop, resize and write tar files, many shards at a time.

Each shard is a pure function of (source, plan, shard number), written beside its place and renamed; a journal
in the destination remembers the finished ones, and `dataset.json` is written last. So a pack can be
interrupted anywhere and run again, and never looks whole before it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps

from biggan.data.dataset import FILE_NAME, Dataset, Preprocessing, Shard, Skipped, Split
from biggan.data.sources import Source, open_source
from biggan.errors import InputError
from biggan.files import sha256_of, sync_file, write_atomically

JOURNAL = "packing.jsonl"


@dataclass(frozen=True)
class Plan:
    """Everything the bytes of the shards depend on, besides the source's own."""

    source: str
    resolution: int
    encoding: str
    """`png` or `jpeg`."""
    val_fraction: float
    shards: int
    torchvision_root: str


@cache
def split_items(plan: Plan) -> dict[str, list[int]]:
    """Item numbers of "train" and, if any are held out, "val"; both mixed over classes.

    Cached: a packing process needs it for each of its shards.
    """
    source = open_source(plan.source, plan.torchvision_root)
    mixed = list(range(len(source.names)))
    random.Random("biggan pack").shuffle(mixed)
    by_class: dict[int, list[int]] = {}
    for item in mixed:
        by_class.setdefault(source.labels[item], []).append(item)
    held_out = {item for items in by_class.values() for item in items[: round(len(items) * plan.val_fraction)]}
    if len(held_out) == len(mixed):
        raise InputError(f"--val-fraction: {plan.val_fraction} leaves no image to train on; use a smaller one")
    train, val = ([i for i in mixed if (i in held_out) is held] for held in (False, True))
    return {"train": train, "val": val} if val else {"train": train}


@dataclass(frozen=True)
class Packed:
    """A finished shard: what `dataset.json` will say of it."""

    split: str
    number: int
    name: str
    labels: dict[int, int]
    bytes: int
    sha256: str
    skipped: list[tuple[str, str]]

    @property
    def images(self) -> int:
        """Images written."""
        return sum(self.labels.values())


def default_shards(images: int) -> int:
    """About a thousand images a shard, a power of two from 16 to 1024: streams then divide evenly."""
    return int(min(1024, max(16, 2 ** math.ceil(math.log2(max(images, 1) / 1000)))))


@dataclass(frozen=True)
class Packing:
    """A pack that may run: its source can be read, its destination written, and some of it may be done."""

    plan: Plan
    dest: Path
    source: Source
    finished: dict[tuple[str, int], Packed]

    @property
    def images(self) -> int:
        """Images of the source, readable or not."""
        return len(self.source.names)

    def run(self, workers: int, on_shard: Callable[[Packed], None]) -> Dataset:
        """Pack what is not finished, on `workers` processes; `on_shard` hears of every shard, old ones first.

        Raises InputError if the disk is full or no image could be read.
        """
        for packed in self.finished.values():
            on_shard(packed)
        todo = [key for key in shard_keys(self.plan) if key not in self.finished]
        try:
            for packed in _pack_shards(self.plan, self.dest, todo, workers):
                _append(self.dest / JOURNAL, asdict(packed))
                self.finished[packed.split, packed.number] = packed
                on_shard(packed)
            dataset = _describe(self.plan, self.source, [self.finished[key] for key in sorted(self.finished)])
            write_atomically(self.dest / FILE_NAME, dataset.to_json())
            (self.dest / JOURNAL).unlink()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.dest}: {reason}; free some room and run the same command again") from None
        return dataset


def begin(plan: Plan, dest: Path) -> Packing:
    """Open the source and begin, or go on with, the pack in `dest`; raises InputError if either cannot be used."""
    source = open_source(plan.source, plan.torchvision_root)
    if not plan.shards:
        plan = replace(plan, shards=min(default_shards(len(source.names)), len(source.names)))
    if plan.shards > len(source.names):
        raise InputError(f"--shards: {plan.shards} shards for {len(source.names)} images; use fewer")
    shard_keys(plan)  # raises InputError if the plan cannot be followed
    return Packing(plan, dest, source, _open_journal(plan, source, dest))


def shard_keys(plan: Plan) -> list[tuple[str, int]]:
    """(split, number) of every shard; held-out images get shards in proportion."""
    splits = split_items(plan)
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
    source = open_source(plan.source, plan.torchvision_root)
    of = sum(1 for name, _ in shard_keys(plan) if name == split)
    items = split_items(plan)[split][number::of]
    path = dest / f"{split}-{number:05d}.tar"
    partial = path.with_suffix(".partial")
    labels: dict[int, int] = {}
    skipped: list[tuple[str, str]] = []
    with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in items:
            try:
                data = encode(square(source.read(item), plan.resolution), plan.encoding)
            except Exception as error:  # a damaged image can raise nearly anything in its decoder
                skipped.append((source.names[item], " ".join(str(error).split()) or type(error).__name__))
                continue
            label = source.labels[item]
            labels[label] = labels.get(label, 0) + 1
            suffix = {"png": "png", "jpeg": "jpg"}[plan.encoding]
            for name, content in ((f"{item:09d}.{suffix}", data), (f"{item:09d}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)  # no time, no owner: equal inputs give equal bytes
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    sync_file(partial)
    partial.replace(path)
    return Packed(split, number, path.name, labels, path.stat().st_size, sha256_of(path), skipped)


def square(image: Image.Image, resolution: int) -> Image.Image:
    """Upright RGB, centre-cropped to a square, resized to `resolution` px with antialiasing (Lanczos)."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(f"more than 8 bits per channel (mode {image.mode}) is not supported")
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cropped before: resize(box=...) would let the filter reach beyond the crop.
    image = image.crop((left, top, left + side, top + side))
    return image if side == resolution else image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def encode(image: Image.Image, encoding: str) -> bytes:
    """The image file's bytes: PNG (lossless), or JPEG at quality 95 without chroma subsampling."""
    out = io.BytesIO()
    if encoding == "png":
        image.save(out, "PNG", compress_level=4)
    else:
        image.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def _open_journal(plan: Plan, source: Source, dest: Path) -> dict[tuple[str, int], Packed]:
    """Start or continue packing in `dest`; return the shards that are already there."""
    if (dest / FILE_NAME).exists():
        raise InputError(f"{dest}: already holds a packed data set; choose another folder or remove it")
    journal = dest / JOURNAL
    listing = hashlib.sha256(repr((source.classes, source.names, source.labels)).encode()).hexdigest()
    header = json.dumps({"plan": asdict(plan), "source_sha256": listing})
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lines = journal.read_text(encoding="utf-8").split("\n") if journal.exists() else []
        if len(lines) < 2:  # not begun, or interrupted while its first line was being written
            if any(f.name != JOURNAL for f in dest.iterdir()):
                raise InputError(f"{dest}: is not empty and was not begun by `biggan pack`; choose another folder")
            journal.write_text(header + "\n", encoding="utf-8")
            lines = [header]
    except OSError as error:
        raise InputError(f"{dest}: cannot be written ({error.strerror or error})") from None
    if lines[0] != header:
        raise InputError(
            f"{dest}: holds a pack begun with other settings or another source; remove it or choose another folder"
        )
    finished = {}
    for line in lines[1:]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the pack was interrupted
        packed = Packed(**record | {"labels": {int(k): n for k, n in record["labels"].items()}})
        file = dest / packed.name
        if file.is_file() and file.stat().st_size == packed.bytes:
            finished[packed.split, packed.number] = packed
    return finished


def _append(journal: Path, record: Mapping[str, object]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _describe(plan: Plan, source: Source, shards: list[Packed]) -> Dataset:
    skipped = [Skipped(path=path, reason=reason) for s in shards for path, reason in s.skipped]
    if not any(s.images for s in shards):
        raise InputError(f"{plan.source}: none of its {len(skipped)} images could be read; {skipped[0].reason}")

    def counts(of: list[Packed]) -> tuple[int, ...]:
        return tuple(sum(s.labels.get(k, 0) for s in of) for k in range(len(source.classes)))

    splits = {}
    for name in dict.fromkeys(s.split for s in shards):
        of = [s for s in shards if s.split == name and s.images]
        records = tuple(Shard(name=s.name, images=s.images, bytes=s.bytes, sha256=s.sha256) for s in of)
        splits[name] = Split(images=sum(s.images for s in of), class_counts=counts(of), shards=records)
    return Dataset(
        source=plan.source,
        resolution=plan.resolution,
        classes=tuple(source.classes),
        images=sum(s.images for s in shards),
        class_counts=counts(shards),
        splits=splits,
        preprocessing=Preprocessing(
            crop="centre, to a square", resize="Lanczos with antialiasing (Pillow)", encoding=plan.encoding
        ),
        skipped=tuple(skipped),
    )
