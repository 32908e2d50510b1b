"""What shows a collapse before the eye does, and needs images of its own: diversity, steepness, memorisation.

Everything is measured in evaluation mode on fixed latents and fixed real images, so that values differ because
the networks do; nothing of the training state moves.
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
from biggan.pictures import evenly_spaced
from biggan.random import keyed_generator

CLASSES = 10
PER_CLASS = 16
"""Of the fixed batch: at most so many classes, evenly spaced, and images of each."""
REAL_IMAGES = 256
"""Real images, at most, that distances are measured by and D is tested on."""
NEAR_DUPLICATE = 0.1
"""Two images of a class are near-duplicates when they are closer than this share of two real images' distance."""
STEP = 0.05
"""Length of the change of z, relative to z's, that steepness is measured with."""


def features(images: Tensor) -> Tensor:
    """Images [N, 3, R, R] -> [N, 192] float32: colours of 8 x 8 tiles. Cheap, and the same for every data set."""
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1)


def distances(images: Tensor) -> Tensor:
    """Euclidean distances [N, N] between images, in feature space."""
    x = features(images)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(images: Tensor) -> float:
    """Between two different images of [N, 3, R, R]; N >= 2."""
    n = len(images)
    return float(distances(images).sum()) / (n * (n - 1))


@dataclass(frozen=True)
class RealImages:
    """A fixed batch of real images: uint8 [N, 3, R, R] and labels [N], in host memory; N may be 0."""

    images: Tensor
    labels: Tensor


class QualityProbe:
    """Measures each process's share of a fixed batch; collective, and the same on any number of processes."""

    def __init__(
        self, *, classes: int, z_dim: int, seed: int, process: Process, train: RealImages, held_out: RealImages
    ):
        """`train` (at least 2 images) and `held_out` (perhaps none) are whole, the same on every process."""
        self._process, self._real = process, {"d_accuracy_train": train, "d_accuracy_held_out": held_out}
        self._scale = mean_distance(to_unit(train.images))
        shown = evenly_spaced(classes, CLASSES)
        self._batches = [
            FixedBatch.for_class(k, z_dim, seed, process.device) for k in shown[process.rank :: process.world_size]
        ]

    def measure(self, generator: nn.Module, ema: nn.Module, discriminator: nn.Module) -> dict[str, float]:
        """Every signal, by its name in `metrics.jsonl`; waits for the device."""
        with evaluating(generator, ema, discriminator):
            mine: list[dict[str, float]] = []
            for batch in self._batches:
                row, images = self._look(generator, batch)
                row = {f"{name}/generator": value for name, value in row.items()}
                row["g_steepness"] = steepness(generator, batch, images)
                row["d_gradient"] = gradient_norm(discriminator, images, batch.y)
                row |= {f"{name}/ema": value for name, value in self._look(ema, batch)[0].items()}
                mine.append(row)
            rows = [row for share in self._process.gather(mine) for row in share]
            found = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
            return found | self._accuracies(discriminator)

    @torch.no_grad()
    def _look(self, generator: nn.Module, batch: FixedBatch) -> tuple[dict[str, float], Tensor]:
        """Diversity and near-duplicates of one class, and its images."""
        images = generator(batch.z, batch.y).float()
        apart = distances(images).fill_diagonal_(torch.inf).amin(1) / self._scale
        near = float((~(apart > NEAR_DUPLICATE)).float().mean())  # NaN images are no variety
        return {"diversity": mean_distance(images) / self._scale, "duplicates": near}, images

    @torch.no_grad()
    def _accuracies(self, discriminator: nn.Module) -> dict[str, float]:
        """Share of real images, trained on and held out, that D takes for real."""
        process, taken = self._process, dict.fromkeys(self._real, 0)
        for name, real in self._real.items():
            parts = zip(real.images.split(PER_CLASS), real.labels.split(PER_CLASS), strict=True)
            for images, labels in list(parts)[process.rank :: process.world_size]:
                logits = discriminator(to_unit(images.to(process.device)), labels.to(process.device))
                taken[name] += int((logits > 0).sum())
        everybody = process.gather(taken)
        return {
            name: sum(counts[name] for counts in everybody) / len(real.images)
            for name, real in self._real.items()
            if len(real.images)
        }


@dataclass(frozen=True)
class FixedBatch:
    """Latents [PER_CLASS, z_dim] of one class, the directions they are changed in, and labels [PER_CLASS]."""

    z: Tensor
    direction: Tensor
    y: Tensor

    @staticmethod
    def of_class(number: int, z_dim: int, seed: int, device: torch.device) -> FixedBatch:
        """Keyed by (seed, class)."""
        random = keyed_generator("quality", seed, number)
        z, direction = torch.randn(2, PER_CLASS, z_dim, generator=random).to(device)
        return FixedBatch(z, direction, torch.full((PER_CLASS,), number, device=device))


@torch.no_grad()
def steepness(generator: nn.Module, batch: FixedBatch, images: Tensor) -> float:
    """How much `images`, those of `batch`, change with z: root mean square, per unit of z, along fixed directions.

    What marks the turn from fitting to collapse in "Evolution of Discriminator and Generator Gradients in GAN
    Training: From Fitting to Collapse" (TMLR 2025), as a finite difference: it needs no backward pass.
    """
    moved = generator(batch.z + STEP * batch.direction, batch.y).float()
    return float((moved - images).square().mean().sqrt()) / STEP


def gradient_norm(discriminator: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Mean Euclidean norm of D's gradient at images: the other of those two signals."""
    x = images.detach().requires_grad_()
    with frozen(discriminator):
        (gradient,) = torch.autograd.grad(discriminator(x, labels).float().sum(), x)
    return float(gradient.flatten(1).norm(dim=1).mean())


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode, then as they were."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
