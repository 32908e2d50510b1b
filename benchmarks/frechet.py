"""How much faster our Frechet distance is than the matrix root of scipy, in one run.

    python benchmarks/frechet.py [--dim 2048] [--images 10000] [--decay 4] [--rounds 3]

Covariances are those of `--images` random rows each, whose variances fall by `--decay` decades, in random bases that
differ a little. scipy's part is its `sqrtm` alone, of the product of the two. Ours is the whole distance: the round's
time is the median, and the ratio is of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import scipy
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from torch import Tensor

from biggan.distributed.process import this_device
from biggan.evaluation.distances import frechet_distance
from biggan.evaluation.moments import Moments


def moments(rows: int, dim: int, decay: float, seed: int, device: torch.device) -> Moments:
    """Of random rows; bases of different seeds are near each other."""
    shared, own = (torch.Generator().manual_seed(s) for s in (0, seed))
    basis = torch.randn(dim, dim, generator=shared) + 0.1 * torch.randn(dim, dim, generator=own)
    scales = torch.logspace(0, -decay / 2, dim)
    turn = torch.linalg.qr(basis).Q
    found = Moments(dim, device)
    for batch in torch.randn(rows, dim, generator=own).split(1000):
        found.add((batch * scales @ turn).relu())
    return found


def scipys_root(a: Tensor, b: Tensor) -> float:
    """Seconds that sqrtm takes."""
    product = a.numpy() @ b.numpy()
    begun = time.perf_counter()
    scipy.linalg.sqrtm(product)
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--decay", type=float, default=4, help="decades from the largest variance to the smallest")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = this_device()
    a, b = (moments(arguments.images, arguments.dim, arguments.decay, seed, device) for seed in (1, 2))
    host = [(m.mean.cpu(), m.covariance.cpu()) for m in (a, b)]
    distance = frechet_distance(a, b)  # not timed: the first call sets libraries up
    ours, scipys = [], []
    for _ in range(arguments.rounds):
        begun = time.perf_counter()
        frechet_distance(a, b)
        ours.append(time.perf_counter() - begun)
        scipys.append(scipys_root(host[0][1], host[1][1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reference = calculate_frechet_distance(*(part.numpy() for pair in host for part in pair))
    here, there = statistics.median(ours), statistics.median(scipys)
    print(f"{arguments.images} rows of {arguments.dim}, {torch.get_num_threads()} threads, {device}")
    print(f"distance {distance:.6f}; pytorch-fid's differs by {abs(reference / distance - 1):.1e} of it")
    print(f"ours {here:.2f} s, scipy's sqrtm {there:.2f} s: {there / here:.1f} times")


if __name__ == "__main__":
    main()
