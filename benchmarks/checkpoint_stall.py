"""Measures how long a checkpoint stalls training: an in-memory copy, compared with a blocking write.

    python benchmarks/checkpoint_stall.py [CONFIG] [key=value ...]
    torchrun --nproc_per_node 2 benchmarks/checkpoint_stall.py CONFIG distributed.engine=deepspeed ...

One training step fills the optimizer states. Then both are timed alternately, ROUNDS times, on this machine's disk. All
processes take part in the copy, and none continues before it is complete; rank 0 alone keeps the copy and writes it.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from biggan.config import Config
from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, join
from biggan.gan import Gan
from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.state import host_copy, trained_tensors
from biggan.training.step import train_step

T = TypeVar("T")
ROUNDS = 7
CONFIGS = Path(__file__).parents[1] / "configs"


def trained(config: Config, process: Process) -> Gan:
    """Return the networks after one training step on random images."""
    gan = build.gan(config, process, FiniteGuard(process.device))
    n, r = config.micro_batch_size // process.world_size, config.model.resolution
    real = itertools.repeat((torch.rand(n, 3, r, r).to(process.device), torch.zeros(n, dtype=torch.long)))
    recipe = compose(config, gan, build.autocast(config, process.device))
    train_step(gan, 1, real, build.draws(config, process), recipe)
    return gan


def copy_tensors(gan: Gan, process: Process) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of a checkpoint, in host memory of rank 0. Collective: returns when the copy is complete."""
    files = trained_tensors(gan)
    copies = {file: {name: host_copy(t) for name, t in named if process.is_main} for file, named in files.items()}
    process.barrier()
    return copies


def timed(action: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that one call takes, and its value."""
    start = time.perf_counter()
    value = action()
    return time.perf_counter() - start, value


def measure(gan: Gan, config: Config, process: Process) -> tuple[list[float], list[float], float]:
    """Return seconds of every copy and, on rank 0, seconds of every write and the size in MiB."""
    copies, writes, mib = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for step in range(ROUNDS):
            process.barrier()
            seconds, tensors = timed(lambda: copy_tensors(gan, process))
            copies.append(seconds)
            if process.is_main:
                mib = sum(t.nbytes for named in tensors.values() for t in named.values()) / 2**20
                contents = Checkpoint(tensors, {}, config.to_yaml())
                writes.append(timed(lambda s=step, c=contents: checkpoint.save(Path(folder), s, c))[0])
    return copies, writes, mib


def main(preset: Path, overrides: list[str]) -> None:
    """Measure and print."""
    config = resolve(preset, [*overrides, "run.dir=unused", "data.path=unused"])
    with join(config.distributed.timeout_seconds) as process:
        copies, writes, mib = measure(trained(config, process), config, process)
        if process.is_main:
            copy, write = statistics.median(copies), statistics.median(writes)
            print(f"{mib:.0f} MiB: copy {copy:.3f} s, write {write:.3f} s, ratio {copy / write:.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:] or [str(CONFIGS / "cifar10.yaml"), "training.batch_size=8", "data.streams=8"]
    main(Path(arguments[0]), arguments[1:])
