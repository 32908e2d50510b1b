"""The Frechet distance of two Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biggan.evaluation.moments import Moments

EPS = torch.finfo(torch.float64).eps
TOLERANCE = 1e-8
"""What a sum of singular values may be wrong by, as a share of itself, before it is had the slow way."""


@torch.no_grad()
def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of covariances A, B: what FID is (Heusel et al. 2017, eq. 6).

    On `a`'s device. Rounding leaves, in practice, an error of 1e-13 of tr(A + B); below 0 the distance is 0. NaN if a
    moment is not finite: never better than another.

    With A = F F^T and B = H H^T the last trace is the sum of the singular values of F^T H. No general matrix is
    decomposed; and where A or B is singular (fewer images than features), F or H is as narrow as its rank, so that the
    eigenvalues which are 0 but for rounding, and whose roots would be large, do not enter.
    """
    mean, covariance = b.mean.to(a.mean), b.covariance.to(a.mean)
    assert len(a.mean) == len(mean), f"features of {len(a.mean)} and of {len(mean)} numbers"
    traces = a.covariance.trace() + covariance.trace()
    apart = (a.mean - mean).square().sum()
    if not (a.covariance.isfinite().all() and covariance.isfinite().all() and apart.isfinite()):
        return math.nan
    overlap = _singular_value_sum(_factor(a.covariance).T @ _factor(covariance))
    return max(float(apart + traces - 2 * overlap), 0.0)


def _singular_value_sum(matrix: Tensor) -> Tensor:
    """By eigenvalues of the smaller Gram matrix, which takes a third of the time, unless squaring may cost digits."""
    if len(matrix) > len(matrix.T):
        matrix = matrix.T
    squares = torch.linalg.eigvalsh(matrix @ matrix.T).clamp_min(0)
    values = squares.sqrt()
    rounding = 4 * EPS * squares[-1:]  # of each; its root s takes over 1 / s of that, at most that one's root
    worst = (rounding / values.clamp_min(rounding.sqrt())).sum()
    return values.sum() if worst <= TOLERANCE * values.sum() else torch.linalg.svdvals(matrix).sum()


def _factor(covariance: Tensor) -> Tensor:
    """F [d, rank] with F F^T = `covariance` [d, d]."""
    factor, failed_at = torch.linalg.cholesky_ex(covariance)
    if not failed_at:
        return factor
    variances, directions = torch.linalg.eigh(covariance)  # ten times as long, and tells the rank
    there = variances > 4 * len(variances) ** 0.5 * EPS * variances[-1]  # more than rounding, ten times what is seen
    return directions[:, there] * variances[there].sqrt()


@torch.no_grad()
def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """Mean and standard deviation, over subsets, of the unbiased squared MMD of features [n, d] and [m, d].

    The kernel is (x.y / d + 1)^3 (Binkowski et al. 2018, section 4); each subset is `subset_size` rows of either, drawn
    without replacement, or as many as the smaller of the two has (at least 2). As torch-fidelity has it, up to which
    rows are drawn: in float64, keyed by `seed`, on the features' device. The mean may be below 0, as the estimate is
    unbiased. The deviation is that of one subset; None where a subset is the whole of
    either set: then it says nothing of that set's chance.
    """
    random = torch.Generator().manual_seed(seed)
    size = min(subset_size, len(real), len(fake))
    assert size >= 2, "two rows of each"
    found = [_squared_mmd(_drawn(real, size, random), _drawn(fake, size, random)) for _ in range(subsets)]
    distances = torch.stack(found)
    whole = size in (len(real), len(fake))
    return float(distances.mean()), None if whole else float(distances.std(correction=0))


def _drawn(rows: Tensor, size: int, random: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=random)[:size].to(rows.device)].double()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased (Gretton et al. 2012, lemma 6), of rows [n, d] each: a scalar."""
    n = len(x)
    within = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
