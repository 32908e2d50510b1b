"""From one image to another: through z, through the classes, or both; on a great circle or on the line.

Most of N(0, I) in d dimensions lies near the sphere of radius sqrt(d). The line between two such points leaves it (its
middle is at about sqrt(d / 2), where the generator has hardly been trained); the great circle stays (White 2016,
"Sampling Generative Networks", section 2.1).

- z is taken whole, also where it is hierarchical: the chunks of one z are one draw of one N(0, I), and only the whole
  has a sphere of its own. All chunks then move at one pace.
- Class embeddings are learned, and no distribution says where they should lie. The line between two is what mixing the
  classes is: BatchNorm's gains and biases move evenly. The circle keeps the length of the embedding, and with it how
  strongly the class is spoken: between two embeddings at right angles the line is down to 71% of it half-way.

Truncated latents are not spread alike in all directions: single values of a great circle's middle may be up to sqrt(2)
times the truncation. Those on the line stay within it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biggan.errors import InputError
from biggan.generation.latents import draw_latents
from biggan.generation.mixing import shared_embedding
from biggan.generation.route import Over, Path, Route
from biggan.generation.sample import generate
from biggan.models.networks import Generator


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
