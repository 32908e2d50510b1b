"""The largest singular values of a stack of matrices, from an approximate basis of their left singular vectors.

Block Lanczos, written as Rayleigh-Ritz on a growing basis (Golub & Underwood 1977; Musco & Musco 2015, who bound
the error without any gap). It reads W as often as subspace iteration does and needs the square root of its number of
iterations: at the edge of a random matrix's spectrum, where training begins, a dozen or two instead of hundreds.
From the vectors of a slightly older weight it needs one or two.

Vectors are rows: with few of them, U W reads W several times faster than W^T U^T on CPU. The small matrices go to the
host in float64: there the decision to stop is taken anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-3
"""Of the residual of W W^T u = sigma^2 u, over sigma^2: sigma is within half of this, relatively, of a singular value;
if it lies apart from the others, the error is of the order of the residual's square."""
FLOOR = 1e-8
"""The least tolerance, over the largest sigma^2: float32 does not do better for values so small."""
NEGLIGIBLE = 1e-5
"""What is left of a unit vector, if it is shorter than this, is rounding errors and joins no basis."""
INFINITE = 1e35
"""What maps a unit vector this far is taken for non-finite: some other vector's image might overflow float32."""
MAX_EXPANSIONS = 48
"""Bounds the time. Past it the values stand as they are, too small if anything, and the next measurement goes on."""


def top_singular_values(weights: Tensor, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest singular values of each of `weights` [s, m, n], m <= n, float32.

    The rows of `start` [s, b, m], count <= b <= m, are linearly independent and approximate left singular vectors,
    the largest first. At least one expansion is made, so that a random row among them finds what the others miss.
    Returns the values, descending, float64 [s, count] on the host, and b rows to start from next time: orthonormal, or
    zero where the matrix has no more rank.
    A matrix with a non-finite entry, or one beyond INFINITE, has the values NaN and keeps its `start`.
    """
    basis = orthonormal(start, start[:, :0])
    images = basis @ weights
    gram = inner(images, images)
    finite = (gram.abs() < INFINITE**2).flatten(1).all(1)
    if not finite.all():
        return _of_the_finite(weights, start, count, finite)
    for expansion in range(MAX_EXPANSIONS + 1):
        squares, vectors, residual, small = _ritz(weights, basis, images, gram, start.shape[1])
        if expansion == MAX_EXPANSIONS or (expansion and small[:, :count].all()):
            break
        new = orthonormal(residual, basis)
        new_images = new @ weights
        beside = inner(images, new_images)
        below = torch.cat([beside.mT, inner(new_images, new_images)], 2)
        gram = torch.cat([torch.cat([gram, beside], 2), below], 1)
        basis, images = torch.cat([basis, new], 1), torch.cat([images, new_images], 1)
    return squares[:, :count].sqrt(), vectors


def _ritz(
    weights: Tensor, basis: Tensor, images: Tensor, gram: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best that `basis` [s, d, m] knows: what `count` vectors of its span come nearest to.

    sigma^2 [s, count], on the host; the vectors [s, count, m]; their residuals over the largest sigma^2; and whether
    those are small enough [s, count], on the host.
    """
    squares, rotation = torch.linalg.eigh(gram)
    squares = squares.flip(1)[:, :count].clamp(min=0)
    rotation = rotation.flip(2)[..., :count].mT
    vectors = rotation.to(basis) @ basis
    # In units of the largest sigma from the start: the squares of weights that explode are beyond float32.
    unit = squares[:, :1, None].sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    image = (rotation / unit).to(images) @ images
    residual = (image @ weights.mT) / unit.to(image) - (squares[..., None] / unit**2).to(image) * vectors
    length = inner(residual, residual).diagonal(dim1=1, dim2=2).sqrt()
    small = length * unit[..., 0] ** 2 <= torch.maximum(TOLERANCE * squares, FLOOR * squares[:, :1])
    return squares, vectors, residual, small


def _of_the_finite(weights: Tensor, start: Tensor, count: int, finite: Tensor) -> tuple[Tensor, Tensor]:
    """`top_singular_values` when only some matrices are `finite` [s]."""
    values, vectors = torch.full((len(weights), count), torch.nan, dtype=torch.float64), start.clone()
    if finite.any():
        here = finite.to(start.device)
        values[finite], vectors[here] = top_singular_values(weights[here], start[here], count)
    return values, vectors


def orthonormal(rows: Tensor, others: Tensor) -> Tensor:
    """An orthonormal basis of `rows` [s, b, m] beyond the span of `others` [s, d, m], which are orthonormal.

    Zero rows stand for what is missing. By the eigenvectors of the Gram matrix (Stathopoulos & Wu 2002), twice,
    because once loses digits: unlike QR it is a matter of batched products, and knows the rank.
    """
    for _ in range(2):
        rows = F.normalize(rows, dim=2)
        rows = rows - (rows @ others.mT) @ others
        squares, vectors = torch.linalg.eigh(inner(rows, rows))
        scale = torch.where(squares > NEGLIGIBLE**2, squares, torch.inf).rsqrt()
        rows = (vectors * scale[:, None]).mT.to(rows) @ rows
    return rows


def inner(a: Tensor, b: Tensor) -> Tensor:
    """a b^T of rows [s, d, m] and [s, e, m], in float64 on the host."""
    return (a.double() @ b.double().mT).cpu()
