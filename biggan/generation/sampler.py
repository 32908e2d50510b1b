"""Loads an exported generator and draws images from it: `biggan.load_generator`.

Needs torch, numpy and safetensors, and no other dependency of training.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any, SupportsIndex, cast

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

Class = str | SupportsIndex
"""A class by name, or by number: an integer of Python, NumPy or torch, but no boolean."""


class Sampler:
    """Exported generator to draw images from, at one truncation.

    `network(z, y)` is the generator itself, in evaluation mode, with the standing statistics of the truncation. It
    takes z float32 [N, z_dim] and y int64 [N] on `device`, and returns images float32 [N, C, R, R] in [-1, 1].
    """

    def __init__(self, trained: TrainedGenerator, truncation: float | None = None):
        check_truncation(truncation, "truncation")
        self._trained = trained
        self.truncation = truncation
        self.network = trained.at(truncation)
        self.classes = trained.classes
        self.resolution, self.z_dim = self.network.resolution, self.network.z_dim
        self.device = next(self.network.parameters()).device

    def at(self, truncation: float | None) -> Sampler:
        """Return the same generator at another truncation (None: no truncation).

        Statistics that the export does not store are computed, which takes a while.
        """
        return Sampler(self._trained, truncation)

    def sample(
        self, classes: Class | Iterable[Class] | None = None, count: int | None = None, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Return images uint8 [count, R, R, 3], RGB in 0 to 255.

        `classes` is a class, or several, which are repeated in order; None stands for all classes. An integer, of
        Python, NumPy or torch, is a class number. Text is a name, or, if no class has that name, a number.
        `count` defaults to the number of classes. Image k depends on `seed`, k and its class alone.
        Raises InputError for an unknown class, or a count below 1.
        """
        if classes is None:
            classes = range(len(self.classes))
        is_one = isinstance(classes, str) or not isinstance(classes, Iterable) or getattr(classes, "ndim", 1) == 0
        requested: Iterable[Any] = [classes] if is_one else cast("Iterable[Any]", classes)
        numbers = [self.class_number(name) for name in requested]
        count = len(numbers) if count is None else count
        if count < 1 or not numbers:
            raise InputError(f"count: {count} images of {len(numbers)} classes; use at least one of each")
        z = draw_latents(range(count), self.network, self.truncation, seed)
        return self.images(z, torch.tensor([numbers[k % len(numbers)] for k in range(count)]))

    def images(self, z: Tensor, y: Tensor) -> NDArray[np.uint8]:
        """Return images uint8 [N, R, R, 3] for latents z float32 [N, z_dim] and class numbers y int64 [N]."""
        return generate(self.network, z, y, self.device)

    def class_number(self, name: Class) -> int:
        """Return the number of a class given as `sample` takes it; raise InputError if there is no such class."""
        if isinstance(name, np.ndarray) and name.ndim == 0:
            name = name.item()
        if isinstance(name, str):
            return class_number(name, self.classes, "classes")
        try:
            number = -1 if "bool" in str(getattr(name, "dtype", type(name))) else operator.index(name)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < len(self.classes):
            raise InputError(
                f"classes: no class '{name!s:.60}'; use a name, or an integer from 0 to {len(self.classes) - 1}"
            )
        return number


def load_generator(
    path: str | Path, truncation: float | None = None, device: str | torch.device | None = None
) -> Sampler:
    """Load the generator from a folder that `biggan export` wrote. `device` None: the GPU if there is one.

    Raises InputError, one line that names the file or argument, if the folder is not an export or is corrupt, or if
    torch has no such device. Pickles are never read.
    """
    check_truncation(truncation, "truncation")
    return Sampler(read_export(Path(path), _checked_device(device)), truncation)


def load_discriminator(path: str | Path, device: str | torch.device | None = None) -> Discriminator:
    """Load the discriminator of an export made with `--discriminator`, as it was trained, in training mode.

    Raises InputError as `load_generator` does, and if the export has no discriminator.
    """
    return read_discriminator(Path(path), _checked_device(device))


def _checked_device(device: str | torch.device | None) -> torch.device:
    """Return the device of that name; raise InputError, before any file is read, if torch does not have it."""
    if device is None:
        return this_device()
    try:
        torch.zeros(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # unknown device; torch built without it; not a device
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise InputError(f"device: {device!r}: {reason}; use cpu, or remove it") from None
