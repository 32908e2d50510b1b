"""Fixed samples of a packed data set, in shard order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan.data.dataset import FILE_NAME, PACK_AGAIN, Dataset, Shard
from biggan.data.stream import AssignedShard, ReadPlan, Sample, decode, label_counts, read_shards
from biggan.errors import InputError
from biggan.image_grid import evenly_spaced
from biggan.progress import Tick


def readable_samples(dataset: Dataset, root: str, split: str) -> Iterator[Sample]:
    """Yield the readable samples of a split in shard order; each shard is opened when it is reached."""
    for shard in dataset.splits[split].shards:
        yield from readable_samples_in_shard(dataset, root, shard)


def readable_samples_in_shard(dataset: Dataset, root: str, shard: Shard) -> Iterator[Sample]:
    """Yield the readable samples of one shard in order."""
    plan = ReadPlan(
        root=root, shards=(shard,), resolution=dataset.resolution, channels=dataset.channels,
        classes=len(dataset.classes), streams=1, shuffle_buffer=1, horizontal_flip=False, seed=0, max_bad_samples=0,
        access=dataset.access,
    )  # fmt: skip
    for sample in decode(plan, read_shards(plan, [AssignedShard(0, shard, 0, 0, last=False)])):
        if sample.image is not None:
            yield sample


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the channel of grey images: [..., R, R, 1 or 3] -> [..., R, R, 3], for figures and feature extractors."""
    return np.broadcast_to(image, (*image.shape[:-1], 3))


def first_images(dataset: Dataset, root: str, split: str, most: int) -> tuple[Tensor, Tensor]:
    """Return the first N <= `most` images, uint8 [N, C, R, R], and labels, int64 [N]; N is 0 without that split."""
    samples = list(islice(readable_samples(dataset, root, split), most)) if split in dataset.splits else []
    r = dataset.resolution
    images = np.array([sample.image for sample in samples], np.uint8).reshape(-1, r, r, dataset.channels)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([s.label for s in samples], dtype=torch.long)


def check_counts(dataset: Dataset, root: str, tick: Tick) -> None:
    """Read every label; raise InputError if the samples are not those that `dataset.json` counts."""
    done, total = 0, len(list(dataset.shards))
    for name, split in dataset.splits.items():
        counts: Counter[str] = Counter()
        for shard in split.shards:
            found = label_counts(root, shard, dataset.access)
            if found.total() != shard.images:
                counted = f"{shard.images} images in {shard.name}, which has {found.total()}"
                raise InputError(f"{root}/{FILE_NAME}: {counted}; {PACK_AGAIN}")
            counts += found
            done += 1
            tick("labels of shards", done, total)
        if counts != Counter({str(k): count for k, count in enumerate(split.class_counts) if count}):
            raise InputError(f"{root}/{FILE_NAME}: splits.{name}.class_counts: not those of its shards; {PACK_AGAIN}")


def first_of_each_class(
    dataset: Dataset, root: str, per_class: int, max_classes: int
) -> tuple[NDArray[np.uint8], list[int]]:
    """Return images uint8 [rows, per_class, R, R, 3] and the class of each row.

    Images are RGB, and white where a class has fewer than `per_class`. With more than `max_classes` classes, evenly
    spaced ones are chosen. Only as many shards as needed are read.
    """
    shown = evenly_spaced(len(dataset.classes), max_classes)
    missing = {k: min(per_class, dataset.splits["train"].class_counts[k]) for k in shown}
    images: dict[int, list[NDArray[np.uint8]]] = {k: [] for k in shown}
    samples = readable_samples(dataset, root, "train")
    while any(missing.values()) and (sample := next(samples, None)) is not None:
        if missing.get(sample.label) and sample.image is not None:
            images[sample.label].append(sample.image)
            missing[sample.label] -= 1
    if any(missing.values()) and not any(images.values()):
        raise InputError(f"{root}/{FILE_NAME}: no sample is an image as it describes; {PACK_AGAIN}")
    r = dataset.resolution
    rows = np.full((len(shown), per_class, r, r, 3), 255, np.uint8)
    for row, k in enumerate(shown):
        for column, image in enumerate(images[k]):
            rows[row, column] = image
    return rows, shown
