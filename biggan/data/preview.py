"""A look at a packed data set: some of its images, always the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan.data.dataset import Dataset, Shard
from biggan.data.stream import DealtShard, ReadPlan, Sample, decode, read_shards
from biggan.pictures import evenly_spaced


def readable(dataset: Dataset, root: str, split: str) -> Iterator[Sample]:
    """The samples of a split that can be read, in order; each shard is opened when its turn comes."""
    for shard in dataset.splits[split].shards:
        yield from readable_in(dataset, root, shard)


def readable_in(dataset: Dataset, root: str, shard: Shard) -> Iterator[Sample]:
    """The samples of one shard that can be read, in order."""
    plan = ReadPlan(
        root=root, shards=(shard,), resolution=dataset.resolution, channels=dataset.channels,
        classes=len(dataset.classes), streams=1, shuffle_buffer=1, horizontal_flip=False, seed=0, max_bad_samples=0,
    )  # fmt: skip
    for sample in decode(plan, read_shards(plan, [DealtShard(0, shard, 0, 0, last=False)])):
        if sample.image is not None:
            yield sample


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., R, R, 1 or 3] -> [..., R, R, 3]: grey is repeated, for pictures and for extractors of features."""
    return np.broadcast_to(image, (*image.shape[:-1], 3))


def first_images(dataset: Dataset, root: str, split: str, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` images uint8 [N, C, R, R] and labels int64 [N]; N is 0 where there is no such split."""
    samples = list(islice(readable(dataset, root, split), most)) if split in dataset.splits else []
    r = dataset.resolution
    images = np.array([sample.image for sample in samples], np.uint8).reshape(-1, r, r, dataset.channels)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([s.label for s in samples], dtype=torch.long)


def first_of_each_class(
    dataset: Dataset, root: str, per_class: int, max_classes: int
) -> tuple[NDArray[np.uint8], list[int]]:
    """uint8 [rows, per_class, R, R, 3] (RGB, white where a class has fewer) and the class of each row.

    Of more than `max_classes` classes, evenly spaced ones are shown. Reads only as many shards as it needs.
    """
    shown = evenly_spaced(len(dataset.classes), max_classes)
    missing = {k: min(per_class, dataset.splits["train"].class_counts[k]) for k in shown}
    found: dict[int, list[NDArray[np.uint8]]] = {k: [] for k in shown}
    samples = readable(dataset, root, "train")
    while any(missing.values()) and (sample := next(samples, None)) is not None:
        if missing.get(sample.label) and sample.image is not None:
            found[sample.label].append(sample.image)
            missing[sample.label] -= 1
    r = dataset.resolution
    rows = np.full((len(shown), per_class, r, r, 3), 255, np.uint8)
    for row, k in enumerate(shown):
        for column, image in enumerate(found[k]):
            rows[row, column] = image
    return rows, shown
