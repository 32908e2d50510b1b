"""A look at a packed data set: images of each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from biggan.data.dataset import Dataset
from biggan.data.loader import DealtShard, ReadPlan, decode, read_shards
from biggan.pictures import evenly_spaced


def first_of_each_class(
    dataset: Dataset, root: str, per_class: int, max_classes: int
) -> tuple[NDArray[np.uint8], list[int]]:
    """uint8 [rows, per_class, R, R, 3] (white where a class has fewer) and the class of each row.

    Of more than `max_classes` classes, evenly spaced ones are shown. Reads only as many shards as it needs.
    """
    shards = dataset.splits["train"].shards
    count = len(dataset.classes)
    shown = evenly_spaced(count, max_classes)
    wanted = {k: min(per_class, dataset.splits["train"].class_counts[k]) for k in shown}
    plan = ReadPlan(
        root=root, shards=shards, resolution=dataset.resolution, classes=count, streams=1, shuffle_buffer=1,
        horizontal_flip=False, seed=0, max_bad_samples=0,
    )  # fmt: skip
    found: dict[int, list[NDArray[np.uint8]]] = {k: [] for k in shown}
    for shard in shards:
        if all(len(found[k]) >= wanted[k] for k in shown):
            break
        for sample in decode(plan, read_shards(plan, [DealtShard(0, shard, 0, 0, last=False)])):
            if sample.image is not None and len(found.get(sample.label, ())) < wanted.get(sample.label, 0):
                found[sample.label].append(sample.image)
    r = dataset.resolution
    rows = np.full((len(shown), per_class, r, r, 3), 255, np.uint8)
    for row, k in enumerate(shown):
        for column, image in enumerate(found[k]):
            rows[row, column] = image
    return rows, shown
