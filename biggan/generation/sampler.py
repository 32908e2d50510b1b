"""A trained generator in three lines: what `biggan.load_generator` gives.

Needs torch, numpy and safetensors, and nothing else that training needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan.distributed.process import this_device
from biggan.errors import InputError
from biggan.generation.arguments import check_truncation, class_number
from biggan.generation.export_reader import read_discriminator, read_export
from biggan.generation.sample import generate
from biggan.generation.trained_generator import TrainedGenerator
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Discriminator


class Sampler:
    """Draws images from an exported generator at one truncation.

    `network(z, y)` is the generator itself: float32 [N, z_dim] and int64 [N] on `device` to float32 [N, 3, R, R] in
    [-1, 1], in evaluation mode, with the standing statistics of the truncation.
    """

    def __init__(self, source: TrainedGenerator, truncation: float | None = None):
        check_truncation(truncation, "truncation")
        self._source = source
        self.truncation = truncation
        self.network = source.at(truncation)
        self.classes = source.classes
        self.resolution, self.z_dim = self.network.resolution, self.network.z_dim
        self.device = next(self.network.parameters()).device

    def at(self, truncation: float | None) -> Sampler:
        """The same generator at another truncation (None: none). One that the export holds no statistics for takes a
        while: they are taken anew."""
        return Sampler(self._source, truncation)

    def sample(
        self, classes: str | int | Sequence[str | int] | None = None, count: int | None = None, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Images uint8 [count, R, R, 3], RGB in 0 to 255.

        `classes`: a name or number, or several, used in turn; None: all of them. `count`: as many as classes if left
        out. Image k depends on `seed`, k and its class alone.
        Raises InputError for a class that is not there, or a count below 1.
        """
        if classes is None:
            classes = range(len(self.classes))
        wanted = [classes] if isinstance(classes, str | int) else classes
        numbers = [self.class_number(name) for name in wanted]
        count = len(numbers) if count is None else count
        if count < 1 or not numbers:
            raise InputError(f"count: {count} images of {len(numbers)} classes; ask for at least one")
        z = draw_latents(range(count), self.network, self.truncation, seed)
        return self.images(z, torch.tensor([numbers[k % len(numbers)] for k in range(count)]))

    def images(self, z: Tensor, y: Tensor) -> NDArray[np.uint8]:
        """Images uint8 [N, R, R, 3] of your own latents float32 [N, z_dim] and class numbers int64 [N]."""
        return generate(self.network, z, y, self.device)

    def class_number(self, name: str | int) -> int:
        """The number of a class by name, or by number; raises InputError if there is no such class."""
        if isinstance(name, int) and 0 <= name < len(self.classes):
            return name
        return class_number(str(name), self.classes, "classes")


def load_generator(
    path: str | Path, truncation: float | None = None, device: str | torch.device | None = None
) -> Sampler:
    """The generator in a folder that `biggan export` wrote, ready to draw from; `device` None: the GPU if there is one.

    Raises InputError, one line that names the file or argument, if the folder is no export or damaged, or torch has no
    such device. Pickles are never read.
    """
    check_truncation(truncation, "truncation")
    return Sampler(read_export(Path(path), _usable(device)), truncation)


def load_discriminator(path: str | Path, device: str | torch.device | None = None) -> Discriminator:
    """The discriminator of an export made with `--discriminator`, in training mode, as training left it: to go on.

    Raises InputError as `load_generator` does, and if the export holds none.
    """
    return read_discriminator(Path(path), _usable(device))


def _usable(device: str | torch.device | None) -> torch.device:
    """The device that was asked for; raises InputError, before any file is read, if torch has none by that name."""
    if device is None:
        return this_device()
    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # no such device; torch built without it; no device
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise InputError(f"device: {device!r}: {reason}; use cpu, or leave it out") from None
