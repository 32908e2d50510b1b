"""Computes the largest singular values of a stack of matrices, given an approximate basis of left singular vectors.

The algorithm is block Lanczos, written as Rayleigh-Ritz on a growing basis (Golub & Underwood 1977; Musco & Musco
2015, who bound the error without assuming a gap). Each iteration reads W as often as one of subspace iteration does,
and it needs about the square root of the number of iterations: at the edge of a random matrix's spectrum, where
training starts, 12 to 24 instead of hundreds. Starting from the vectors of a slightly older weight, it needs one or
two.

Vectors are rows: with few of them, U W reads W several times faster than W^T U^T on CPU. The small matrices are moved
to the host in float64, because the stopping decision is taken there anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-3
"""Tolerance of the residual of W W^T u = sigma^2 u, relative to sigma^2. The relative error of sigma is then at most
half of this; for a well-separated singular value it is of the order of the residual's square."""
FLOOR = 1e-8
"""Minimum tolerance of the residual, relative to the largest sigma^2: the limit of float32 for small values."""
NEGLIGIBLE = 1e-5
"""Length below which the remainder of a unit vector is rounding error and does not join a basis."""
INFINITE = 1e35
"""Length of a unit vector's image from which a matrix counts as non-finite: other images might overflow float32."""
MAX_EXPANSIONS = 48
"""Maximum number of expansions, to bound the time. The values reached by then are returned; they can only be too small,
and the next measurement continues from their vectors."""


def top_singular_values(weights: Tensor, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest singular values of each of `weights`, float32 [s, m, n] with m <= n, and new vectors.

    The rows of `start` [s, b, m], count <= b <= m, are linearly independent and approximate the left singular vectors,
    the largest first. The basis is expanded at least once, so that a random row among them can find missed directions.

    The values are float64 [s, count] on the host, descending. The vectors [s, b, m] are the `start` of the next
    measurement: orthonormal rows, or zero rows beyond the rank of the matrix. A matrix with a non-finite entry, or with
    images of length INFINITE or more, gets NaN values and keeps its `start`.
    """
    basis = orthonormal(start, start[:, :0])
    images = basis @ weights
    gram = inner(images, images)
    finite = (gram.abs() < INFINITE**2).flatten(1).all(1)
    if not finite.all():
        return _skip_non_finite(weights, start, count, finite)
    for expansion in range(MAX_EXPANSIONS + 1):
        squares, vectors, residual, small = _ritz(weights, basis, images, gram, start.shape[1])
        if expansion == MAX_EXPANSIONS or (expansion and small[:, :count].all()):
            break
        new = orthonormal(residual, basis)
        new_images = new @ weights
        cross = inner(images, new_images)
        lower_rows = torch.cat([cross.mT, inner(new_images, new_images)], 2)
        gram = torch.cat([torch.cat([gram, cross], 2), lower_rows], 1)
        basis, images = torch.cat([basis, new], 1), torch.cat([images, new_images], 1)
    return squares[:, :count].sqrt(), vectors


def _ritz(
    weights: Tensor, basis: Tensor, images: Tensor, gram: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the Ritz approximation of the `count` largest singular values within the span of `basis` [s, d, m].

    The result is: sigma^2 [s, count] on the host; the vectors [s, count, m]; their residuals [s, count, m], divided by
    the largest sigma^2; and a mask [s, count] on the host, true where the residual is within tolerance.
    """
    squares, rotation = torch.linalg.eigh(gram)
    squares = squares.flip(1)[:, :count].clamp(min=0)
    rotation = rotation.flip(2)[..., :count].mT
    vectors = rotation.to(basis) @ basis
    # Use units of the largest sigma from here on: the squares of exploding weights overflow float32.
    unit = squares[:, :1, None].sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    image = (rotation / unit).to(images) @ images
    residual = (image @ weights.mT) / unit.to(image) - (squares[..., None] / unit**2).to(image) * vectors
    length = inner(residual, residual).diagonal(dim1=1, dim2=2).sqrt()
    small = length * unit[..., 0] ** 2 <= torch.maximum(TOLERANCE * squares, FLOOR * squares[:, :1])
    return squares, vectors, residual, small


def _skip_non_finite(weights: Tensor, start: Tensor, count: int, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Return `top_singular_values` of the matrices that are `finite` [s]; NaN values and `start` for the others."""
    values, vectors = torch.full((len(weights), count), torch.nan, dtype=torch.float64), start.clone()
    if finite.any():
        mask = finite.to(start.device)
        values[finite], vectors[mask] = top_singular_values(weights[mask], start[mask], count)
    return values, vectors


def orthonormal(rows: Tensor, others: Tensor) -> Tensor:
    """Return an orthonormal basis [s, b, m] of `rows` [s, b, m] outside the span of orthonormal `others` [s, d, m].

    Missing dimensions are zero rows. The basis comes from the eigenvectors of the Gram matrix (Stathopoulos & Wu 2002),
    applied twice because one pass loses digits. Unlike QR, this needs only batched products and reveals the rank.
    """
    for _ in range(2):
        rows = F.normalize(rows, dim=2)
        rows = rows - (rows @ others.mT) @ others
        squares, vectors = torch.linalg.eigh(inner(rows, rows))
        scale = torch.where(squares > NEGLIGIBLE**2, squares, torch.inf).rsqrt()
        rows = (vectors * scale[:, None]).mT.to(rows) @ rows
    return rows


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return a b^T [s, d, e] of rows a [s, d, m] and b [s, e, m], in float64 on the host."""
    return (a.double() @ b.double().mT).cpu()
