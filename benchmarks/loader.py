"""What reading a packed data set costs, by the number of reading processes.

    python benchmarks/loader.py DATA [--batch-size 128] [--readers 0 1 2 4 8]

The training process's own share is what a step pays for, however many cores read: time it spends taking batches apart
from waiting for them.
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
    """Images per second, and the training process's CPU seconds per image."""
    cursors = [START] * STREAMS
    loader = Loader(plan, micro_batch_size=batch_size, cursors=cursors, rank=0, world_size=1, workers=readers)
    try:
        for _ in range(20):  # the readers start, and read ahead
            next(loader)
        begun, busy = time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            next(loader)
        images = BATCHES * batch_size
        return images / (time.perf_counter() - begun), (time.process_time() - busy) / images
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
    print(f"{'readers':>7}{'images/s':>10}{'us of the training process an image':>38}")
    for readers in arguments.readers:
        rate, seconds = measure(plan, arguments.batch_size, readers)
        print(f"{readers:>7}{rate:>10.0f}{1e6 * seconds:>38.1f}", flush=True)


if __name__ == "__main__":
    main()
