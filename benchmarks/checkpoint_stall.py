"""How long training stands still for a checkpoint: the copy in memory, against writing it before going on.

    python benchmarks/checkpoint_stall.py [CONFIG] [key=value ...]

One training step fills the optimizers; then both are timed in turn, ROUNDS times, on this machine's disk.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from biggan import build
from biggan.config import Config
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, this_device
from biggan.preset import resolve
from biggan.training import checkpoint
from biggan.training.checkpoint import Checkpoint
from biggan.training.state import host_copy, trained_tensors
from biggan.training.step import Gan, train_step

ROUNDS = 7
CONFIGS = Path(__file__).parents[1] / "configs"


def trained(config: Config) -> Gan:
    """After one step on random images."""
    process = Process(0, 1, this_device(), None)
    gan = build.gan(config, process, FiniteGuard(process.device))
    n, r = config.micro_batch_size, config.model.resolution
    real = itertools.repeat((torch.rand(n, 3, r, r).to(process.device), torch.zeros(n, dtype=torch.long)))
    train_step(gan, 1, real, build.latents(config, process), build.recipe(config, process))
    return gan


def copied(gan: Gan) -> dict[str, dict[str, torch.Tensor]]:
    """What a checkpoint holds of it, in host memory."""
    return {file: {name: host_copy(t) for name, t in named} for file, named in trained_tensors(gan).items()}


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main(preset: Path, overrides: list[str]) -> None:
    """Time and print."""
    config = resolve(preset, [*overrides, "run.dir=unused", "data.path=unused"])
    gan = trained(config)
    copies, writes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(ROUNDS):
            copies.append(seconds(lambda: copied(gan)))
            contents = Checkpoint(copied(gan), {}, config.to_yaml())
            writes.append(seconds(lambda s=step, c=contents: checkpoint.save(Path(folder), s, c)))
    size = sum(t.nbytes for named in contents.tensors.values() for t in named.values()) / 2**20
    copy, write = statistics.median(copies), statistics.median(writes)
    print(f"{size:.0f} MiB: copied in {copy:.3f} s, written in {write:.3f} s: the stall is {copy / write:.3f} of it")


if __name__ == "__main__":
    arguments = sys.argv[1:] or [str(CONFIGS / "cifar10.yaml"), "training.batch_size=8", "data.streams=8"]
    main(Path(arguments[0]), arguments[1:])
