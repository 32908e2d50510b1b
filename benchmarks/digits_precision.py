"""Compares the quality of the demo in bfloat16 and in float32 at the same step, with three seeds of each.

    python benchmarks/digits_precision.py [--steps 900] [--parallel 2] [--dest runs/precision]

Needs data/digits (`biggan pack digits data/digits --resolution 32`). Prints a row per run, then
the mean class accuracy of each precision beside the range of the other's seeds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from digits_quality import quality

PRESET = Path(__file__).parents[1] / "configs" / "digits.yaml"
PRECISIONS = ("float32", "bfloat16")
SEEDS = (0, 1, 2)


def train(dest: Path, precision: str, seed: int, steps: int, threads: int) -> dict[str, float]:
    """Train one run, or resume it, and return its quality."""
    run = dest / f"{precision}-{seed}"
    overrides = [f"run.dir={run}", f"run.seed={seed}", f"training.precision={precision}", f"training.steps={steps}"]
    command = [sys.executable, "-m", "biggan", "train", str(PRESET), *overrides, "tracking.mlflow=false"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    return quality(run)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--dest", type=Path, default=Path("runs/precision"))
    arguments = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.parallel)
    jobs = [(precision, seed) for seed in SEEDS for precision in PRECISIONS]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = pool.map(lambda job: train(arguments.dest, *job, arguments.steps, threads), jobs)
        accuracy: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for (precision, seed), figures in zip(jobs, results, strict=True):
            accuracy[precision].append(figures["accuracy"])
            print(precision, f"seed {seed}", *(f"{k} {v:.3f}" for k, v in figures.items()), sep="  ", flush=True)
    for precision, other in (PRECISIONS, PRECISIONS[::-1]):
        mean = sum(accuracy[precision]) / len(SEEDS)
        low, high = min(accuracy[other]), max(accuracy[other])
        print(f"{precision}: mean {mean:.3f}; {other}'s seeds range from {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
