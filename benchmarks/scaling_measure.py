"""Measures training steps and collectives alternately in one run. scaling_model.py starts it under torchrun.

    scaling_measure.py OUT ROUNDS

Steps during which other programs used more than 5% of the cores are dropped.

Each round measures: a step of independent processes, each on its slice of the batch, with one process and then one per
core (these share caches and memory but do not communicate); a step of one, two and four processes together; short
pieces of work on every core, whose noise is that between two synchronizations; and the collectives of two and of four
processes. Processes that do not take part in a measurement sleep until it ends.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from biggan.config import Config
from biggan.config.preset import resolve
from biggan.distributed.collectives import all_gather_rows, all_reduce_sum
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, join
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step

CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = {
    "digits 32 px, ch 16": ("digits.yaml", ["model.channels=16"]),
    "64 px, ch 8": ("imagenet64.yaml", ["model.channels=8", "model.classes=10", "training.precision=float32"]),
}
BATCHES = {"digits 32 px, ch 16": 32, "64 px, ch 8": 16}
BYTES = {"all_reduce": (64, 1024, 8192, 2**18, 2**20, 2**22), "all_gather": (64, 1024, 8192, 2**16)}
REPEATS = 11
Step = Callable[[], float]


def check_config(size: str, batch_size: int | None = None) -> Config:
    """Return the config of one of SIZES for a global batch size."""
    preset, overrides = SIZES[size]
    batch = batch_size or BATCHES[size]
    return resolve(CONFIGS / preset, [*overrides, f"training.batch_size={batch}", "data.streams=4"])


def stepper(size: str, batch_size: int, process: Process) -> Step:
    """Return a function that runs one training step, with the loop's stop flag, and returns its seconds."""
    config = check_config(size, batch_size)
    gan = build.gan(config, process, FiniteGuard(process.device))
    recipe = compose(config, gan, build.autocast(config, process.device))
    draws = build.draws(config, process)
    images, r = batch_size // process.world_size, config.model.resolution
    x = torch.rand(images, 3, r, r, device=process.device).contiguous(memory_format=torch.channels_last)
    real = itertools.repeat((x, torch.zeros(images, dtype=torch.long, device=process.device)))
    numbers = itertools.count(1)

    def step() -> float:
        process.barrier()
        start = time.perf_counter()
        process.any(False)
        train_step(gan, next(numbers), real, draws, recipe)["g_loss"].item()  # synchronizes with the device
        return time.perf_counter() - start

    return step


def collective(name: str, size: int, process: Process) -> float:
    """Return the median seconds of one float32 collective of `size` bytes per process, between pieces of work.

    The pieces of work imitate a step. The time is from the last process's arrival to the mean end; all processes read
    one machine's clock. Back-to-back collectives with warm caches take half as long.
    """
    x, piece, times = torch.ones(size // 4, device=process.device), Piece(process.device), []
    assert process.group is not None
    for _ in range(REPEATS):
        for _ in range(6):
            piece()
        start = time.perf_counter()
        out = all_reduce_sum(x, process.group) if name == "all_reduce" else all_gather_rows(x, process.group)
        out.view(-1)[0].item()
        times.append((start, time.perf_counter()))
    repeats = zip(*process.gather(times), strict=True)
    return statistics.median(statistics.fmean(end for _, end in each) - max(b for b, _ in each) for each in repeats)


class Piece:
    """Callable that works for some milliseconds, as between two synchronizations of a step, and returns the seconds."""

    def __init__(self, device: torch.device):
        self.x, self.weight = torch.rand(8, 32, 32, 32, device=device), torch.rand(32, 32, 3, 3, device=device)

    def __call__(self) -> float:
        start = time.perf_counter()
        torch.nn.functional.conv2d(self.x, self.weight, padding=1)[0, 0, 0, 0].item()
        return time.perf_counter() - start


def teams(process: Process) -> dict[int, Process | None]:
    """Return, for teams of 1, 2 and 4 processes, this process as a member; None if it is not one."""
    members: dict[int, Process | None] = {}
    for count in (1, 2, 4):
        if count <= process.world_size:
            group = dist.new_group(list(range(count))) if count > 1 else None
            takes_part = process.rank < count
            members[count] = Process(process.rank, count, process.device, group) if takes_part else None
    return members


@dataclass(frozen=True)
class Turn:
    """A step that some processes run at the same time, alone or together; `step` is None in the others."""

    kind: str
    size: str
    key: int
    step: Step | None
    seconds: list[float]


def turns(process: Process, teams: dict[int, Process | None]) -> Iterator[Turn]:
    """Yield steps on each slice of the batch by independent processes, and on the complete batch by each team."""
    own_group = None
    if process.group is not None:
        # In a group of one, DDP and BatchNorm do the same as in a larger group, except for waiting for others.
        own_group = [dist.new_group([rank]) for rank in range(process.world_size)][process.rank]
    for size, batch in BATCHES.items():
        for count, team in teams.items():
            images, busy = batch // count, min(count, os.cpu_count() or 1)
            solo = Process(0, 1, process.device, None if count == 1 else own_group)
            yield Turn("alone", size, images, stepper(size, images, solo) if process.rank < busy else None, [])
            yield Turn("together", size, count, stepper(size, batch, team) if team else None, [])


def main(out: Path, rounds: int) -> None:
    """Measure and write JSON to `out`."""
    with join(600) as process:
        members = teams(process)
        steps = list(turns(process, members))
        collectives = {(n, name, size): [] for n in members if n > 1 for name, sizes in BYTES.items() for size in sizes}
        work: list[list[float]] = []
        for number in range(rounds + 2):  # the first two are warm-up: DDP arranges its buckets
            for turn in steps:
                process.barrier()
                elapsed, others = run_turn(turn.step, process)
                if turn.step is not None and number >= 2 and others < 0.05:
                    turn.seconds.append(elapsed)
            process.barrier()
            if process.rank < (os.cpu_count() or 1) and number >= 2:
                piece = Piece(process.device)
                work.append([piece() for _ in range(60)])
            for (count, name, size), seconds in collectives.items():
                process.barrier()
                team = members[count]
                if team is not None and number >= 2:
                    seconds.append(collective(name, size, team))
        if process.is_main:
            out.write_text(json.dumps(summary(steps, collectives) | {"work": work, "device": process.device.type}))


def run_turn(step: Step | None, process: Process) -> tuple[float, float]:
    """Return the slowest process's seconds of a step, and the fraction of cores used by other programs. Collective."""
    start, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    seconds = 0.0 if step is None else step()
    ours = sum(process.gather(time.process_time() - own))  # also waits until all are done
    others = busy_seconds() - busy - ours
    slowest = max(process.gather(seconds))  # a step together waits for the slowest
    return slowest, process.gather(others / (os.cpu_count() or 1) / (time.perf_counter() - start))[0]


def busy_seconds() -> float:
    """Return the CPU seconds that all cores together have spent on processes since boot.

    Interrupts are excluded: our own loopback traffic runs in them and is charged to no process.
    """
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def summary(steps: list[Turn], collectives: dict[tuple[int, str, int], list[float]]) -> dict[str, Any]:
    """Return seconds by kind, network, and slice size or process count; collectives by process count, name, bytes."""
    result: dict[str, Any] = {"alone": {}, "together": {}, "collectives": {}}
    for turn in steps:
        result[turn.kind].setdefault(turn.size, {})[turn.key] = turn.seconds
    for (count, name, size), seconds in collectives.items():
        result["collectives"].setdefault(count, {}).setdefault(name, {})[size] = seconds
    return result


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
