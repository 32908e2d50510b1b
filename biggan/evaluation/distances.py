"""Distances of two sets of features: the Frechet distance of their Gaussians (FID), and the kernel distance (KID)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biggan.evaluation.moments import Moments

EPS = torch.finfo(torch.float64).eps
TOLERANCE = 1e-11
"""Largest relative error that rounding may leave in a sum of singular values taken from a Gram matrix."""
WELL_CONDITIONED = 100
"""A Cholesky factor is used if the smallest variance is at least this many times the rounding error."""


@torch.no_grad()
def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of covariances A, B: the FID (Heusel et al. 2017, eq. 6).

    Computed on the device of `a`. Exactly symmetric in its arguments on one device unless tr A = tr B. Clamped at 0.
    NaN if a moment is not finite, which is never better than another distance.

    With A = F F^T and B = H H^T the last trace is the sum of the singular values of F^T H. An error e in A moves that
    sum by about e (b / v)^(1/2) / 2 for each direction of variance v in A and b in B. Rounding gives e = 1e-16 of the
    largest variance, which is harmless for v well above e. In a direction that A does not have (fewer images than
    features), v is rounding itself, and the error is its root: 1e-8 instead of 1e-16. F and H are therefore as narrow
    as the rank, and what is left is, in practice, an error of 1e-13 of tr(A + B).
    """
    mean, covariance = b.mean.to(a.mean), b.covariance.to(a.mean)
    assert len(a.mean) == len(mean), f"features of {len(a.mean)} and of {len(mean)} numbers"
    apart = (a.mean - mean).square().sum()
    if not (a.covariance.isfinite().all() and covariance.isfinite().all() and apart.isfinite()):
        return math.nan
    # The wider Gaussian comes first: swapped arguments take the same path through the kernels.
    wide, narrow = sorted((a.covariance, covariance), key=lambda x: -float(x.trace()))
    overlap = _singular_value_sum(_factor(wide).T @ _factor(narrow))
    return max(float(apart + (wide.trace() + narrow.trace()) - 2 * overlap), 0.0)


def _singular_value_sum(matrix: Tensor) -> Tensor:
    """Return the sum of the singular values of a matrix: a scalar.

    The eigenvalues of the smaller Gram matrix give it in two thirds of the time, unless squaring may cost digits.
    """
    if len(matrix) > len(matrix.T):
        matrix = matrix.T
    squares = torch.linalg.eigvalsh(matrix @ matrix.T).clamp_min(0)
    values = squares.sqrt()
    rounding = 4 * EPS * squares[-1:]  # of each square; its root s is off by that / s, and by at most its root
    worst = (rounding / values.clamp_min(rounding.sqrt())).sum()
    return values.sum() if worst <= TOLERANCE * values.sum() else torch.linalg.svdvals(matrix).sum()


def _factor(covariance: Tensor) -> Tensor:
    """Return F [d, rank] with F F^T = `covariance` [d, d].

    Cholesky's algorithm alone does not find the rank. The last pivot of a singular matrix is a rounding error; if it is
    positive, the factorization succeeds with one column too many.
    """
    negligible = 4 * len(covariance) ** 0.5 * EPS  # of the largest variance: 30 times the rounding that was measured
    factor, failed_at = torch.linalg.cholesky_ex(covariance)
    if not failed_at and _least_variance(factor) > WELL_CONDITIONED * negligible * covariance.trace():
        return factor
    variances, directions = torch.linalg.eigh(covariance)  # ten times as slow, but it finds the rank
    significant = variances > negligible * variances[-1]
    return directions[:, significant] * variances[significant].sqrt()


def _least_variance(factor: Tensor) -> Tensor:
    """Estimate the smallest eigenvalue of L L^T from above, by three steps of inverse iteration."""
    pivots = factor.diagonal()
    vector = torch.zeros_like(factor[:, :1])
    vector[pivots.argmin()] = 1
    for _ in range(3):
        vector = torch.cholesky_solve(vector, factor)
        least = 1 / vector.norm()
        vector = vector * least
    return least


@torch.no_grad()
def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """Return the mean and standard deviation, over subsets, of the unbiased squared MMD of features [n, d] and [m, d].

    The kernel is (x.y / d + 1)^3 (Binkowski et al. 2018, section 4). Each subset has `subset_size` rows of both sets,
    drawn without replacement; or as many as the smaller set has, at least 2. The definition is torch-fidelity's, except
    for the rows drawn. Computed in float64, keyed by `seed`, on the features' device. The estimate is unbiased, so the
    mean may be below 0. The deviation is that of one subset. It is None if a subset is all of either set: then it does
    not measure the sampling of that set.
    """
    random = torch.Generator().manual_seed(seed)
    size = min(subset_size, len(real), len(fake))
    assert size >= 2, "two rows of each"
    values = [_squared_mmd(_drawn(real, size, random), _drawn(fake, size, random)) for _ in range(subsets)]
    distances = torch.stack(values)
    whole = size in (len(real), len(fake))
    return float(distances.mean()), None if whole else float(distances.std(correction=0))


def _drawn(rows: Tensor, size: int, random: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=random)[:size].to(rows.device)].double()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate (Gretton et al. 2012, lemma 6) for rows [n, d] of each: a scalar."""
    n = len(x)
    within = sum(k.sum() - k.diagonal().sum() for k in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
