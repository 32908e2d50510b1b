"""How long training stands still for a checkpoint: the copy in memory, against writing it before going on.

    python benchmarks/checkpoint_stall.py [CONFIG] [key=value ...]
    torchrun --nproc_per_node 2 benchmarks/checkpoint_stall.py CONFIG distributed.engine=deepspeed ...

One training step fills the optimizers; then both are timed in turn, ROUNDS times, on this machine's disk. Of several
processes the first copies and writes; all take part in the copy, and none goes on before it is whole.
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
from biggan.training.state import host_copy, trained_tensors
from biggan.training.step import train_step

T = TypeVar("T")
ROUNDS = 7
CONFIGS = Path(__file__).parents[1] / "configs"


def trained(config: Config, process: Process) -> Gan:
    """After one step on random images."""
    gan = build.gan(config, process, FiniteGuard(process.device))
    n, r = config.micro_batch_size // process.world_size, config.model.resolution
    real = itertools.repeat((torch.rand(n, 3, r, r).to(process.device), torch.zeros(n, dtype=torch.long)))
    train_step(gan, 1, real, build.latents(config, process), build.recipe(config, process))
    return gan


def copied(gan: Gan, process: Process) -> dict[str, dict[str, torch.Tensor]]:
    """What a checkpoint holds of it, in host memory of the first process. Collective: when it is whole, all go on."""
    files = trained_tensors(gan)
    copies = {file: {name: host_copy(t) for name, t in named if process.is_main} for file, named in files.items()}
    process.barrier()
    return copies


def timed(action: Callable[[], T]) -> tuple[float, T]:
    """How many seconds one call takes, and its value."""
    begun = time.perf_counter()
    value = action()
    return time.perf_counter() - begun, value


def measured(gan: Gan, config: Config, process: Process) -> tuple[list[float], list[float], float]:
    """Seconds of every copy, and on the first process of every write, with the size in MiB."""
    copies, writes, mib = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for step in range(ROUNDS):
            process.barrier()
            seconds, tensors = timed(lambda: copied(gan, process))
            copies.append(seconds)
            if process.is_main:
                mib = sum(t.nbytes for named in tensors.values() for t in named.values()) / 2**20
                contents = Checkpoint(tensors, {}, config.to_yaml())
                writes.append(timed(lambda s=step, c=contents: checkpoint.save(Path(folder), s, c))[0])
    return copies, writes, mib


def main(preset: Path, overrides: list[str]) -> None:
    """Time and print."""
    config = resolve(preset, [*overrides, "run.dir=unused", "data.path=unused"])
    with join(config.distributed.timeout_seconds) as process:
        copies, writes, mib = measured(trained(config, process), config, process)
        if process.is_main:
            copy, write = statistics.median(copies), statistics.median(writes)
            times = f"copied in {copy:.3f} s, written in {write:.3f} s"
            print(f"{mib:.0f} MiB: {times}: the stall is {copy / write:.3f} of it")


if __name__ == "__main__":
    arguments = sys.argv[1:] or [str(CONFIGS / "cifar10.yaml"), "training.batch_size=8", "data.streams=8"]
    main(Path(arguments[0]), arguments[1:])
