"""Collapse signals that need images: diversity, near-duplicates, steepness, gradient at samples, memorisation.

All of them are measured in evaluation mode on fixed latents and fixed real images, so values change only because the
networks change. The training state is not modified.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.data.loader import to_unit
from biggan.distributed.engine import frozen
from biggan.distributed.process import Process
from biggan.image_grid import evenly_spaced
from biggan.random import keyed_generator

CLASSES = 10
"""Maximum number of classes in the fixed batch; with more classes, evenly spaced ones are used."""
PER_CLASS = 16
"""Number of images per class in the fixed batch."""
REAL_IMAGES = 256
"""Maximum number of real images that define the unit of distance and that D is tested on."""
NEAR_DUPLICATE = 0.1
"""Distance, relative to the mean distance of real images, below which two images of a class are near-duplicates."""
Z_STEP = 0.05
"""Length of the change of z for steepness, relative to the length of z."""


def features(images: Tensor) -> Tensor:
    """Return the mean colours of 8 x 8 tiles: images [N, 3, R, R] -> float32 [N, 192]. They suit every data set."""
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1)


def distances(images: Tensor) -> Tensor:
    """Return the Euclidean distances [N, N] between images [N, 3, R, R] in feature space."""
    x = features(images)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(images: Tensor) -> float:
    """Return the mean distance between two different images of [N, 3, R, R]; N >= 2."""
    n = len(images)
    return float(distances(images).sum()) / (n * (n - 1))


@dataclass(frozen=True)
class RealImages:
    """Fixed batch of real images: uint8 [N, 3, R, R] and labels [N], in host memory; N may be 0."""

    images: Tensor
    labels: Tensor


class QualityProbe:
    """Measurement of the signals on a fixed batch, sharded by class over the processes.

    The values do not depend on the number of processes.
    """

    def __init__(
        self, *, classes: int, z_dim: int, seed: int, process: Process, train: RealImages, held_out: RealImages
    ):
        """Take all of `train` (at least 2 images) and of `held_out` (may be empty), equal on every process."""
        self._process, self._real = process, {"d_accuracy_train": train, "d_accuracy_held_out": held_out}
        self._scale = mean_distance(to_unit(train.images))
        measured_classes = evenly_spaced(classes, CLASSES)
        self._batches = [
            FixedBatch.for_class(k, z_dim, seed, process.device)
            for k in measured_classes[process.rank :: process.world_size]
        ]

    def measure(
        self, generator: nn.Module, ema: nn.Module, discriminator: nn.Module, level: float | None
    ) -> dict[str, float]:
        """Return every signal by its name in `metrics.jsonl`. Collective; waits for the device.

        `level` is the logit between real and fake; None if only differences of logits have a meaning.
        """
        with evaluating(generator, ema, discriminator):
            local_rows: list[dict[str, float]] = []
            fakes: list[float] = []
            for batch in self._batches:
                row, images = self._measure_class(generator, batch)
                row = {f"{name}/generator": value for name, value in row.items()}
                row["g_steepness"] = steepness(generator, batch, images)
                if level is None:
                    fakes += logits_of(discriminator, images, batch.y)
                row["d_gradient"] = gradient_norm(discriminator, images, batch.y)
                row |= {f"{name}/ema": value for name, value in self._measure_class(ema, batch)[0].items()}
                local_rows.append(row)
            rows = [row for shard in self._process.gather(local_rows) for row in shard]
            means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
            levels = [level] if level is not None else [x for part in self._process.gather(fakes) for x in part]
            return means | self._accuracies(discriminator, levels)

    @torch.no_grad()
    def _measure_class(self, generator: nn.Module, batch: FixedBatch) -> tuple[dict[str, float], Tensor]:
        """Return diversity and near-duplicates of one class, and its images [PER_CLASS, 3, R, R]."""
        images = generator(batch.z, batch.y).float()
        nearest = distances(images).fill_diagonal_(torch.inf).amin(1) / self._scale
        duplicates = float((~(nearest > NEAR_DUPLICATE)).float().mean())  # NaN images count as duplicates
        return {"diversity": mean_distance(images) / self._scale, "duplicates": duplicates}, images

    def _accuracies(self, discriminator: nn.Module, levels: list[float]) -> dict[str, float]:
        """Return D's accuracy on training and on held-out images: the share of logits above each of the levels.

        A loss that fixes no level between real and fake is measured against the logits of the generator's images: the
        result is the share of pairs with D(real) > D(fake).
        """
        process, correct = self._process, dict.fromkeys(self._real, 0)
        for name, real in self._real.items():
            parts = zip(real.images.split(PER_CLASS), real.labels.split(PER_CLASS), strict=True)
            for images, labels in list(parts)[process.rank :: process.world_size]:
                logits = logits_of(discriminator, to_unit(images.to(process.device)), labels.to(process.device))
                correct[name] += sum(logit > level for logit in logits for level in levels)
        gathered = process.gather(correct)
        return {
            name: sum(counts[name] for counts in gathered) / (len(real.images) * len(levels))
            for name, real in self._real.items()
            if len(real.images)
        }


@torch.no_grad()
def logits_of(discriminator: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Return D's logits of images [N, C, R, R]. Waits for the device."""
    logits: list[float] = discriminator(images, labels).float().tolist()
    return logits


@dataclass(frozen=True)
class FixedBatch:
    """Latents z [PER_CLASS, z_dim] of one class, directions of the same shape to move them in, labels y [PER_CLASS]."""

    z: Tensor
    direction: Tensor
    y: Tensor

    @staticmethod
    def for_class(number: int, z_dim: int, seed: int, device: torch.device) -> FixedBatch:
        """Draw the batch of class `number`, keyed by (seed, class)."""
        random = keyed_generator("quality", seed, number)
        z, direction = torch.randn(2, PER_CLASS, z_dim, generator=random).to(device)
        return FixedBatch(z, direction, torch.full((PER_CLASS,), number, device=device))


@torch.no_grad()
def steepness(generator: nn.Module, batch: FixedBatch, images: Tensor) -> float:
    """Return the root mean square change of `images`, the generator's for `batch`, per unit of z along fixed
    directions.

    This quantity marks the turn from fitting to collapse in "Evolution of Discriminator and Generator Gradients in GAN
    Training: From Fitting to Collapse" (TMLR 2025). It is a finite difference, so it needs no backward pass.
    """
    moved = generator(batch.z + Z_STEP * batch.direction, batch.y).float()
    return float((moved - images).square().mean().sqrt()) / Z_STEP


def gradient_norm(discriminator: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the mean Euclidean norm of D's gradient with respect to its images: the other signal of that paper."""
    x = images.detach().requires_grad_()
    with frozen(discriminator):
        (gradient,) = torch.autograd.grad(discriminator(x, labels).float().sum(), x)
    return float(gradient.flatten(1).norm(dim=1).mean())


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode; restore their modes on exit."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
