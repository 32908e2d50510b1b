"""Precision, recall, density and coverage, and nearest neighbours, from blocks of pairwise distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ROWS = 2048
"""Rows per block: at most BLOCK_ROWS x BLOCK_ROWS distances are in memory at a time."""
EQUAL_TOLERANCE = 1e-12
"""Two rows are equal if their squared distance, relative to the sum of their squared norms, is below this rounding."""
RADIUS_TOLERANCE = 1e-9
"""Relative tolerance of a ball's squared radius, so that a row on the surface counts as inside."""


@dataclass(frozen=True)
class Manifold:
    """Overlap of the manifolds of two sets of rows. All values are near 1 for two samples of one distribution."""

    precision: float
    """Fraction of fake rows that lie in the ball of some real row."""
    recall: float
    """Fraction of real rows that lie in the ball of some fake row."""
    density: float
    """Mean number of real balls that contain a fake row, divided by the number of neighbours. It may exceed 1."""
    coverage: float
    """Fraction of real rows whose ball contains some fake row."""


@torch.no_grad()
def manifold(real: Tensor, fake: Tensor, neighbours: int = 5) -> Manifold:
    """Compare features [n, d] and [m, d], of any float dtype, on one device; n and m exceed `neighbours`.

    The ball of a row extends to its `neighbours`-th nearest row in its own set, inclusive; the row itself does not
    count. Precision and recall: Kynkaanniemi et al. 2019, equation 2. Density and coverage: Naeem et al. 2020,
    equations 4 and 6. Computed in float64 for every input dtype. Beyond the inputs, memory is
    O(n + m + BLOCK_ROWS (BLOCK_ROWS + d)).
    """
    origin = real.mean(0, dtype=torch.float64)
    reach_real, reach_fake = (
        _closest(x, x, origin, neighbours, exclude_self=True)[0][:, -1:] * (1 + RADIUS_TOLERANCE) for x in (real, fake)
    )
    in_real_balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool, device=real.device)
    for i in _blocks(real):
        for j in _blocks(fake):
            squared = _squared_distances(real[i] - origin, fake[j] - origin)
            inside = squared <= reach_real[i]
            in_real_balls[j] += inside.sum(0)
            covered[i] |= inside.any(1)
            recalled[i] |= (squared <= reach_fake[j].T).any(1)
    return Manifold(
        precision=_fraction(in_real_balls > 0),
        recall=_fraction(recalled),
        density=float(in_real_balls.double().mean()) / neighbours,
        coverage=_fraction(covered),
    )


@torch.no_grad()
def nearest(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the distances and indices of the `count` rows [m, d] nearest to each of `queries` [n, d]; m >= `count`.

    The Euclidean distances are float64 [n, count], ascending; the indices are int64 [n, count]. Both are on the
    inputs' device. Memory as in `manifold`.
    """
    squared, indices = _closest(queries, rows, rows.mean(0, dtype=torch.float64), count, exclude_self=False)
    return squared.sqrt(), indices


def _closest(queries: Tensor, rows: Tensor, origin: Tensor, count: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
    """Return squared distances and indices as in `nearest`.

    With `exclude_self` the queries are the rows, and no row is its own neighbour.
    """
    assert len(rows) >= count + exclude_self, f"{len(rows)} rows are too few for {count} neighbours"
    squared, indices = [], []
    for i in _blocks(queries):
        query = queries[i] - origin
        best = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
        for j in _blocks(rows):
            distances = _squared_distances(query, rows[j] - origin)
            if exclude_self and i == j:
                distances.fill_diagonal_(torch.inf)
            values, columns = distances.topk(min(count, distances.shape[1]), largest=False)
            values, columns = torch.cat([best[0], values], 1), torch.cat([best[1], columns + j.start], 1)
            values, order = values.topk(min(count, values.shape[1]), largest=False)
            best = values, columns.gather(1, order)
        squared.append(best[0])
        indices.append(best[1])
    return torch.cat(squared), torch.cat(indices)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return [n, m] squared distances of float64 [n, d] and [m, d], as |x|^2 + |y|^2 - 2 x.y.

    The rows must be near the origin: far from it this difference cancels.
    """
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < EQUAL_TOLERANCE * norms, 0)


def _blocks(rows: Tensor) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, len(rows), BLOCK_ROWS)]


def _fraction(flags: Tensor) -> float:
    return float(flags.double().mean())
