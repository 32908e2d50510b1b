"""The kernel distance, KID."""

from __future__ import annotations

import torch
from torch import Tensor


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
