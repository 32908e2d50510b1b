"""Interpolation between latents and between classes, in the shared class embedding (Brock et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biggan.errors import InputError
from biggan.generation.arguments import InterpolatedInput, Interpolation, InterpolationPath
from biggan.generation.sample import generate
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator


def shared_embedding(generator: Generator) -> nn.Embedding:
    """Return the class embedding that all BatchNorms share; raise InputError if the generator has none."""
    if generator.class_embedding is None:
        raise InputError(
            "classes cannot be mixed: this generator has no shared class embedding (model.class_embedding_dim: 0); "
            "use unmixed classes, or a generator that was trained with one"
        )
    return generator.class_embedding


@torch.no_grad()
def mix_classes(generator: Generator, mixtures: Sequence[Mapping[int, float]]) -> Tensor:
    """Return class embeddings float32 [len(mixtures), class_embedding_dim], on the device, of weighted classes.

    A mixture maps class numbers to weights. Weights are at least 0 and are divided by their sum: the mixture {3: 1.0}
    is class 3, bit for bit. The embedding enters every BatchNorm's gain and bias linearly, so the gains and biases of a
    mixture are the weighted means of those of its classes.
    """
    embedding = shared_embedding(generator).weight
    rows = []
    for weights in mixtures:
        total = sum(weights.values())
        assert total > 0, weights
        assert min(weights.values()) >= 0, weights
        fractions = torch.tensor(list(weights.values()), dtype=torch.float64, device=embedding.device) / total
        rows.append((fractions[:, None] * embedding[list(weights)].double()).sum(0).float())
    return torch.stack(rows)


def between(first: Tensor, last: Tensor, interpolation: Interpolation) -> Tensor:
    """Interpolate evenly from `first` [n, d] to `last` [n, d]; returns [n, steps, d], both ends included."""
    fraction = torch.linspace(0, 1, interpolation.steps, dtype=torch.float64, device=first.device)[:, None]
    a, b = first.double()[:, None], last.double()[:, None]
    points = slerp(a, b, fraction) if interpolation.path is InterpolationPath.CIRCLE else torch.lerp(a, b, fraction)
    return points.to(first.dtype)


def slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate spherically from `a` to `b` (float64, last axis d): angle and length both change linearly.

    Directions follow Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3. Raises InputError for a
    zero vector, which has no direction, and for opposite vectors, which no unique great circle joins.
    """
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / lengths[0], b / lengths[1]
    difference, total = (u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True)
    # Kahan's form: an arc cosine loses digits near 0 and near pi, where the points depend on them.
    angle = 2 * torch.atan2(difference, total)
    if not bool((total > 1e-6).all()):  # also false for the NaN of a zero vector
        raise InputError("interpolation: two ends are opposite or zero: no great circle is defined; use --path line")
    small = angle < 1e-6  # where sin(x) / sin(angle) is x / angle to float64's precision
    sine = torch.where(small, 1.0, angle.sin())
    before = torch.where(small, 1 - fraction, ((1 - fraction) * angle).sin() / sine)
    after = torch.where(small, fraction, (fraction * angle).sin() / sine)
    return torch.lerp(*lengths, fraction) * (before * u + after * v)


def class_pairs(over: InterpolatedInput, classes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the classes at both ends of each strip.

    Over z, a strip keeps its class. Otherwise it leads from one class to the next; raises InputError for one class.
    """
    if over is InterpolatedInput.Z:
        return [(k, k) for k in classes]
    if len(classes) < 2:
        raise InputError(
            f"--classes: one class; --interpolate {over} goes from one class to the next: name two or more"
        )
    return list(pairwise(classes))


@torch.no_grad()
def interpolate(
    generator: Generator,
    interpolation: Interpolation,
    pairs: Sequence[tuple[int, int]],
    per_pair: int,
    truncation: float | None,
    seed: int,
    device: torch.device,
) -> NDArray[np.uint8]:
    """Return strips of images uint8 [len(pairs) * per_pair, steps, R, R, 3], grouped by pair of classes.

    The ends of strip j of pair i are latents 2s and 2s + 1 of the seed, with s = j * len(pairs) + i. Over classes, both
    ends are latent 2s. The first strips of a pair stay the same if `per_pair` grows. Raises InputError if classes
    change and the generator has no shared class embedding.
    """
    strips = [j * len(pairs) + i for i in range(len(pairs)) for j in range(per_pair)]
    z = draw_latents(range(2 * len(strips)), generator, truncation, seed)
    z_first = z[[2 * s for s in strips]]
    z_last = z_first if interpolation.over is InterpolatedInput.CLASS else z[[2 * s + 1 for s in strips]]
    y_first, y_last = (torch.tensor([pair[k] for pair in pairs]).repeat_interleave(per_pair) for k in (0, 1))
    if torch.equal(y_first, y_last):
        y = y_first.repeat_interleave(interpolation.steps)
    else:
        table = shared_embedding(generator).weight.cpu()
        y = between(table[y_first], table[y_last], interpolation).flatten(0, 1)
    images = generate(generator, between(z_first, z_last, interpolation).flatten(0, 1), y, device)
    return images.reshape(len(strips), interpolation.steps, *images.shape[1:])
