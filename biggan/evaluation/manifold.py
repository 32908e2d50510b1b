"""Precision, recall, density and coverage, and nearest neighbours: distances between all rows, a block at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ROWS = 2048
"""Distances are held between so many rows and as many others."""
SAME = 1e-12
"""Rows are the same when their squared distance is below this share of their squared norms: it is rounding."""
ROUNDING = 1e-9
"""A row lies in a ball that it lies on: up to this share of the squared radius."""


@dataclass(frozen=True)
class Manifold:
    """How two sets of rows lie in each other; all are near 1 for two samples of one distribution."""

    precision: float
    """Share of fake rows that lie in the ball of some real row."""
    recall: float
    """Share of real rows that lie in the ball of some fake row."""
    density: float
    """Real balls that a fake row lies in, on average, over the neighbours that make a ball; may exceed 1."""
    coverage: float
    """Share of real rows in whose ball some fake row lies."""


@torch.no_grad()
def manifold(real: Tensor, fake: Tensor, neighbours: int = 5) -> Manifold:
    """Compare features [n, d] and [m, d], of any float type, on one device; n and m are above `neighbours`.

    A row's ball reaches, and includes, its `neighbours`-th nearest of its own set, itself left out. Precision and
    recall: Kynkaanniemi et al. 2019, equation 2; density and coverage: Naeem et al. 2020, equations 4 and 6.
    In float64, whatever the features are in; memory beside them is O(n + m + BLOCK_ROWS (BLOCK_ROWS + d)).
    """
    origin = real.mean(0, dtype=torch.float64)
    reach_real, reach_fake = (
        _closest(x, x, origin, neighbours, True)[0][:, -1:] * (1 + ROUNDING) for x in (real, fake)
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
        precision=_share(in_real_balls > 0),
        recall=_share(recalled),
        density=float(in_real_balls.double().mean()) / neighbours,
        coverage=_share(covered),
    )


@torch.no_grad()
def nearest(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances, float64 [n, count], ascending, and indices, int64 [n, count], of the `rows` [m, d] that are
    nearest to each of `queries` [n, d]; on their device, m >= `count`. Memory as in `manifold`."""
    squared, indices = _closest(queries, rows, rows.mean(0, dtype=torch.float64), count, False)
    return squared.sqrt(), indices


def _closest(queries: Tensor, rows: Tensor, origin: Tensor, count: int, same: bool) -> tuple[Tensor, Tensor]:
    """Squared distances and indices as in `nearest`; `same`: the queries are the rows, and none counts for itself."""
    assert len(rows) >= count + same, f"of {len(rows)} rows none has {count} neighbours"
    squared, indices = [], []
    for i in _blocks(queries):
        query = queries[i] - origin
        best = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
        for j in _blocks(rows):
            distances = _squared_distances(query, rows[j] - origin)
            if same and i == j:
                distances.fill_diagonal_(torch.inf)
            values, numbers = distances.topk(min(count, distances.shape[1]), largest=False)
            values, numbers = torch.cat([best[0], values], 1), torch.cat([best[1], numbers + j.start], 1)
            values, order = values.topk(min(count, values.shape[1]), largest=False)
            best = values, numbers.gather(1, order)
        squared.append(best[0])
        indices.append(best[1])
    return torch.cat(squared), torch.cat(indices)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, m], of float64 [n, d] and [m, d] near the origin: |x|^2 + |y|^2 - 2 x.y, which far from it would cancel."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < SAME * norms, 0)


def _blocks(rows: Tensor) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, len(rows), BLOCK_ROWS)]


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
