"""Nearest real neighbours of generated images in feature space, which show whether the generator copies."""

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
from biggan.image_grid import evenly_spaced, grid
from biggan.progress import Tick

MAX_SAMPLES = 20
"""Maximum number of rows in the figure."""
NEIGHBOURS = 7
"""Number of columns beside the sample."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest real images of n queries, nearest first; k is at most NEIGHBOURS."""

    distances: Tensor
    """float64 [n, k]."""
    images: Tensor
    """uint8 [n, k, R, R, 3]."""

    def merged(self, other: Neighbours) -> Neighbours:
        """Return the nearest of both."""
        distances = torch.cat([self.distances, other.distances], 1)
        order = distances.argsort(dim=1, stable=True)[:, :NEIGHBOURS]
        images = torch.cat([self.images, other.images], 1)
        return Neighbours(distances.gather(1, order), images[torch.arange(len(order))[:, None], order])


def nearest_real(images: Tensor, real: RealSplit, extractor: Extractor, process: Process, tick: Tick) -> Neighbours:
    """Return the real images nearest to images uint8 [n, R, R, 3], which are on the device. Collective.

    All real images are searched. Each process searches its own shards of the data set.
    """
    queries = extractor(images).features
    r = real.dataset.resolution
    none = Neighbours(torch.empty(len(images), 0, dtype=torch.float64), torch.empty(len(images), 0, r, r, 3).byte())

    def search() -> Neighbours:
        closest, shards = none, real.shards_of(process)
        done = 0
        for shard in shards:
            for _, batch, _ in real.batches(shard):
                rows = extractor(batch.to(process.device)).features
                distances, indices = nearest(queries, rows, min(NEIGHBOURS, len(rows)))
                closest = closest.merged(Neighbours(distances.cpu(), batch[indices.cpu()]))
            done += shards[shard]
            tick("nearest real neighbours", done, sum(shards.values()))
        return closest

    parts = process.gather(process.together(search))
    total: Neighbours = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    return total


def sample_indices(classes: int) -> list[int]:
    """Return the indices of the images in the figure: the first one of at most MAX_SAMPLES evenly spaced classes."""
    return evenly_spaced(classes, MAX_SAMPLES)


def neighbour_grid(images: NDArray[np.uint8], neighbours: Neighbours, names: list[str]) -> Image.Image:
    """Draw a row for each of images uint8 [n, R, R, 3]: its class name, the image, and its neighbours."""
    return grid(np.concatenate([images[:, None], neighbours.images.numpy()], 1), names)
