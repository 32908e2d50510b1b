"""Measures the speed of reading a packed data set for several numbers of reader processes.

    python benchmarks/loader.py DATA [--batch-size 128] [--readers 0 1 2 4 8]

The CPU time per image of the training process itself is the cost that a step pays, for any number of reader cores. It
excludes the time spent waiting for batches.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from biggan.data.dataset import load
from biggan.data.loader import Loader
from biggan.data.stream import START, ReadPlan

STREAMS = 16
BATCHES = 60


def measure(plan: ReadPlan, batch_size: int, readers: int) -> tuple[float, float]:
    """Return images per second, and the training process's CPU seconds per image."""
    cursors = [START] * STREAMS
    loader = Loader(plan, micro_batch_size=batch_size, cursors=cursors, rank=0, world_size=1, workers=readers)
    try:
        for _ in range(20):  # the readers start and prefetch
            next(loader)
        start, busy = time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            next(loader)
        images = BATCHES * batch_size
        return images / (time.perf_counter() - start), (time.process_time() - busy) / images
    finally:
        loader.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch-size", type=int, default=128, help=f"a multiple of {STREAMS}")
    parser.add_argument("--readers", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(arguments.data)
    plan = ReadPlan(
        root=str(arguments.data),
        shards=dataset.splits["train"].shards,
        resolution=dataset.resolution,
        channels=dataset.channels,
        classes=len(dataset.classes),
        streams=STREAMS,
        shuffle_buffer=1000,
        horizontal_flip=True,
        seed=0,
        max_bad_samples=0,
    )
    print(f"{'readers':>7}{'images/s':>10}{'training process, us per image':>38}")
    for readers in arguments.readers:
        rate, seconds = measure(plan, arguments.batch_size, readers)
        print(f"{readers:>7}{rate:>10.0f}{1e6 * seconds:>38.1f}", flush=True)


if __name__ == "__main__":
    main()
