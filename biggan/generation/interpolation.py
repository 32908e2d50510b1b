"""Classes between classes: points of the shared class embedding (Brock et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from biggan.errors import InputError
from biggan.generation.interpolation_spec import Over, Path, Route
from biggan.generation.sample import generate
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator


def shared_embedding(generator: Generator) -> nn.Embedding:
    """The embedding that all BatchNorms read; InputError for a generator that has none."""
    if generator.class_embedding is None:
        raise InputError(
            "classes cannot be mixed: this generator has no shared class embedding (model.class_embedding_dim: 0); "
            "use whole classes, or a generator that was trained with one"
        )
    return generator.class_embedding


@torch.no_grad()
def mix_classes(generator: Generator, mixtures: Sequence[Mapping[int, float]]) -> Tensor:
    """Class embeddings float32 [len(mixtures), class_embedding_dim], on the device, of weights by class number.

    Weights are at least 0, and are divided by their sum: the mixture {3: 1.0} is class 3, bit for bit. The embedding
    enters every BatchNorm's gain and bias linearly, so these are the weighted means of the classes' gains and biases.
    """
    embedding = shared_embedding(generator).weight
    rows = []
    for weights in mixtures:
        total = sum(weights.values())
        assert total > 0, weights
        assert min(weights.values()) >= 0, weights
        shares = torch.tensor(list(weights.values()), dtype=torch.float64, device=embedding.device) / total
        rows.append((shares[:, None] * embedding[list(weights)].double()).sum(0).float())
    return torch.stack(rows)


def between(first: Tensor, last: Tensor, route: Route) -> Tensor:
    """[n, d] and [n, d] -> [n, steps, d]: evenly spaced from `first` to `last`."""
    share = torch.linspace(0, 1, route.steps, dtype=torch.float64, device=first.device)[:, None]
    a, b = first.double()[:, None], last.double()[:, None]
    points = great_circle(a, b, share) if route.path is Path.CIRCLE else torch.lerp(a, b, share)
    return points.to(first.dtype)


def great_circle(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Points at `share` of the way from `a` to `b` (float64, last axis d): angle and length both change evenly.

    Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3, for the directions. Raises InputError for a
    zero vector, which has no direction, and for opposite ones, between which no great circle is the shortest.
    """
    lengths = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / lengths[0], b / lengths[1]
    apart, together = (u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True)
    # Kahan's form: an arc cosine loses digits near 0 and near pi, where the points depend on them.
    angle = 2 * torch.atan2(apart, together)
    if not bool((together > 1e-6).all()):  # false for NaN, of a zero vector, too
        raise InputError("interpolation: two ends are opposite or zero: no one great circle joins them; use the line")
    even = angle < 1e-6  # there sin(x) / sin(angle) is x / angle to float64's precision
    sine = torch.where(even, 1.0, angle.sin())
    before = torch.where(even, 1 - share, ((1 - share) * angle).sin() / sine)
    after = torch.where(even, share, (share * angle).sin() / sine)
    return torch.lerp(*lengths, share) * (before * u + after * v)


def class_pairs(over: Over, classes: Sequence[int]) -> list[tuple[int, int]]:
    """The classes at both ends of each strip: over z one class stays, else each goes over into the next."""
    if over is Over.Z:
        return [(k, k) for k in classes]
    if len(classes) < 2:
        raise InputError(
            f"--classes: one class; --interpolate {over} goes from one class to the next: name two or more"
        )
    return list(pairwise(classes))


@torch.no_grad()
def interpolate(
    generator: Generator,
    route: Route,
    pairs: Sequence[tuple[int, int]],
    per_pair: int,
    truncation: float | None,
    seed: int,
    device: torch.device,
) -> NDArray[np.uint8]:
    """Strips uint8 [len(pairs) * per_pair, steps, R, R, 3], those of one pair of classes together.

    The ends of strip j of pair i are latents 2s and 2s + 1 of the seed, s = j * len(pairs) + i (over classes, 2s at
    both): more strips of a pair begin with the fewer. Raises InputError if classes change and no embedding is shared.
    """
    strips = [j * len(pairs) + i for i in range(len(pairs)) for j in range(per_pair)]
    z = draw_latents(range(2 * len(strips)), generator, truncation, seed)
    z_first = z[[2 * s for s in strips]]
    z_last = z_first if route.over is Over.CLASS else z[[2 * s + 1 for s in strips]]
    y_first, y_last = (torch.tensor([pair[k] for pair in pairs]).repeat_interleave(per_pair) for k in (0, 1))
    if torch.equal(y_first, y_last):
        y = y_first.repeat_interleave(route.steps)
    else:
        table = shared_embedding(generator).weight.cpu()
        y = between(table[y_first], table[y_last], route).flatten(0, 1)
    images = generate(generator, between(z_first, z_last, route).flatten(0, 1), y, device)
    return images.reshape(len(strips), route.steps, *images.shape[1:])
