"""Nearest real neighbours of generated images, in feature space: is the generator copying?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from biggan.distributed.process import Process
from biggan.evaluation.features import Extractor
from biggan.evaluation.manifold import nearest
from biggan.evaluation.reference_statistics import RealSplit
from biggan.pictures import evenly_spaced, grid
from biggan.progress import Tick

MOST_SAMPLES = 20
"""Rows of the picture."""
NEIGHBOURS = 7
"""Columns beside the sample."""


@dataclass(frozen=True)
class Neighbours:
    """Of each of n queries, its nearest real images so far, the nearest first: at most NEIGHBOURS."""

    distances: Tensor
    """float64 [n, k]."""
    images: Tensor
    """uint8 [n, k, R, R, 3]."""

    def joined(self, other: Neighbours) -> Neighbours:
        """The nearest of both."""
        distances = torch.cat([self.distances, other.distances], 1)
        order = distances.argsort(dim=1, stable=True)[:, :NEIGHBOURS]
        images = torch.cat([self.images, other.images], 1)
        return Neighbours(distances.gather(1, order), images[torch.arange(len(order))[:, None], order])


def nearest_real(images: Tensor, real: RealSplit, extractor: Extractor, process: Process, tick: Tick) -> Neighbours:
    """Of images uint8 [n, R, R, 3], on the device, among all real images, shared out over the processes. Collective."""
    queries = extractor(images).features
    r = real.dataset.resolution
    mine = Neighbours(torch.empty(len(images), 0, dtype=torch.float64), torch.empty(len(images), 0, r, r, 3).byte())

    def look() -> Neighbours:
        found, shards = mine, real.shards_of(process)
        done = 0
        for shard in shards:
            for _, batch, _ in real.batches(shard):
                rows = extractor(batch.to(process.device)).features
                distances, indices = nearest(queries, rows, min(NEIGHBOURS, len(rows)))
                found = found.joined(Neighbours(distances.cpu(), batch[indices.cpu()]))
            done += shards[shard]
            tick("nearest real neighbours", done, sum(shards.values()))
        return found

    shares = process.gather(process.together(look))
    whole: Neighbours = shares[0]
    for share in shares[1:]:
        whole = whole.joined(share)
    return whole


def shown_numbers(classes: int) -> list[int]:
    """Which images of an evaluation are looked at: of at most MOST_SAMPLES classes, evenly spaced, the first one."""
    return evenly_spaced(classes, MOST_SAMPLES)


def picture(images: NDArray[np.uint8], found: Neighbours, names: list[str]) -> Image.Image:
    """A row for each of images [n, R, R, 3]: its class, the image, and its neighbours."""
    return grid(np.concatenate([images[:, None], found.images.numpy()], 1), names)
