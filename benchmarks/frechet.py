"""Measures the speed of our Frechet distance against the matrix square root of scipy, in one run.

    python benchmarks/frechet.py [--dim 2048] [--images 10000] [--decay 4] [--rounds 3]

Each covariance is that of `--images` random rows whose variances fall by `--decay` decades; the two random bases differ
slightly. For scipy only `sqrtm` of the product of the two is timed. For ours the complete distance is timed. The ratio
is that of the medians over rounds.
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
    """Return the moments of random rows. The bases of different seeds are close to each other."""
    shared, own = (torch.Generator().manual_seed(s) for s in (0, seed))
    basis = torch.randn(dim, dim, generator=shared) + 0.1 * torch.randn(dim, dim, generator=own)
    scales = torch.logspace(0, -decay / 2, dim)
    rotation = torch.linalg.qr(basis).Q
    result = Moments(dim, device)
    for batch in torch.randn(rows, dim, generator=own).split(1000):
        result.add((batch * scales @ rotation).relu())
    return result


def time_sqrtm(a: Tensor, b: Tensor) -> float:
    """Return the seconds that scipy's sqrtm of the product takes."""
    product = a.numpy() @ b.numpy()
    start = time.perf_counter()
    scipy.linalg.sqrtm(product)
    return time.perf_counter() - start


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
    distance = frechet_distance(a, b)  # not timed: the first call initializes libraries
    ours, scipy_seconds = [], []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        frechet_distance(a, b)
        ours.append(time.perf_counter() - start)
        scipy_seconds.append(time_sqrtm(host[0][1], host[1][1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reference = calculate_frechet_distance(*(part.numpy() for pair in host for part in pair))
    our_median, scipy_median = statistics.median(ours), statistics.median(scipy_seconds)
    print(f"{arguments.images} rows of {arguments.dim}, {torch.get_num_threads()} threads, {device}")
    print(f"distance {distance:.6f}; relative difference from pytorch-fid {abs(reference / distance - 1):.1e}")
    print(f"ours {our_median:.2f} s, scipy's sqrtm {scipy_median:.2f} s: speedup {scipy_median / our_median:.1f}")


if __name__ == "__main__":
    main()
