"""Run under torchrun by scaling_model.py: times steps and collectives, taking turns in one run.

    scaling_measure.py OUT ROUNDS

Steps during which other programs took more than 5% of the cores are dropped.

Each round: processes that know nothing of each other take a step with their share of the batch, one, then one on every
core (they share caches and memory, and send nothing); one, two and four take a step together; every core does short
pieces of work, whose noise is that between two meetings; then the collectives of two and of four. Processes that have
no part in something sleep until it is over.
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
    """The config of one of SIZES, for a global batch."""
    preset, overrides = SIZES[size]
    batch = batch_size or BATCHES[size]
    return resolve(CONFIGS / preset, [*overrides, f"training.batch_size={batch}", "data.streams=4"])


def stepper(size: str, batch_size: int, process: Process) -> Step:
    """A function that takes one training step, with the loop's flag, and returns the seconds it took."""
    config = check_config(size, batch_size)
    gan = build.gan(config, process, FiniteGuard(process.device))
    latents, recipe = build.latents(config, process), build.recipe(config, process)
    share, r = batch_size // process.world_size, config.model.resolution
    x = torch.rand(share, 3, r, r, device=process.device).contiguous(memory_format=torch.channels_last)
    real = itertools.repeat((x, torch.zeros(share, dtype=torch.long, device=process.device)))
    numbers = itertools.count(1)

    def step() -> float:
        process.barrier()
        begun = time.perf_counter()
        process.any(False)
        train_step(gan, next(numbers), real, latents, recipe)["g_loss"].item()  # a device is waited for
        return time.perf_counter() - begun

    return step


def collective(name: str, size: int, process: Process) -> float:
    """Median seconds of one collective of float32, `size` bytes from each process, among pieces of work as in a step.

    From the last process's arrival to when they are through, on the average: all read one machine's clock. Back to
    back, with everything warm, it takes half as long.
    """
    x, piece, times = torch.ones(size // 4, device=process.device), Piece(process.device), []
    assert process.group is not None
    for _ in range(REPEATS):
        for _ in range(6):
            piece()
        begun = time.perf_counter()
        out = all_reduce_sum(x, process.group) if name == "all_reduce" else all_gather_rows(x, process.group)
        out.view(-1)[0].item()
        times.append((begun, time.perf_counter()))
    repeats = zip(*process.gather(times), strict=True)
    return statistics.median(statistics.fmean(end for _, end in each) - max(b for b, _ in each) for each in repeats)


class Piece:
    """A piece of work of some milliseconds, such as lies between two meetings of a step; called, its seconds."""

    def __init__(self, device: torch.device):
        self.x, self.weight = torch.rand(8, 32, 32, 32, device=device), torch.rand(32, 32, 3, 3, device=device)

    def __call__(self) -> float:
        begun = time.perf_counter()
        torch.nn.functional.conv2d(self.x, self.weight, padding=1)[0, 0, 0, 0].item()
        return time.perf_counter() - begun


def teams(process: Process) -> dict[int, Process | None]:
    """For 1, 2 and 4 processes: this one's place among them, None if it has no part."""
    found: dict[int, Process | None] = {}
    for count in (1, 2, 4):
        if count <= process.world_size:
            group = dist.new_group(list(range(count))) if count > 1 else None
            takes_part = process.rank < count
            found[count] = Process(process.rank, count, process.device, group) if takes_part else None
    return found


@dataclass(frozen=True)
class Turn:
    """A step that some processes take at once, alone or together; `step` is None in the others."""

    kind: str
    size: str
    key: int
    step: Step | None
    seconds: list[float]


def turns(process: Process, teams: dict[int, Process | None]) -> Iterator[Turn]:
    """Each share of the batch taken alone, and the whole of it by each team."""
    own_group = None
    if process.group is not None:
        # In a group of one, DDP and BatchNorm do what they do in a larger one, but for waiting for others.
        own_group = [dist.new_group([rank]) for rank in range(process.world_size)][process.rank]
    for size, batch in BATCHES.items():
        for count, team in teams.items():
            share, busy = batch // count, min(count, os.cpu_count() or 1)
            solo = Process(0, 1, process.device, None if count == 1 else own_group)
            yield Turn("alone", size, share, stepper(size, share, solo) if process.rank < busy else None, [])
            yield Turn("together", size, count, stepper(size, batch, team) if team else None, [])


def main(out: Path, rounds: int) -> None:
    """Measure and write."""
    with join(600) as process:
        members = teams(process)
        steps = list(turns(process, members))
        heard = {(n, name, size): [] for n in members if n > 1 for name, sizes in BYTES.items() for size in sizes}
        work: list[list[float]] = []
        for number in range(rounds + 2):  # the first two warm up: DDP lays out its buckets
            for turn in steps:
                process.barrier()
                taken, others = undisturbed(turn.step, process)
                if turn.step is not None and number >= 2 and others < 0.05:
                    turn.seconds.append(taken)
            process.barrier()
            if process.rank < (os.cpu_count() or 1) and number >= 2:
                piece = Piece(process.device)
                work.append([piece() for _ in range(60)])
            for (count, name, size), seconds in heard.items():
                process.barrier()
                team = members[count]
                if team is not None and number >= 2:
                    seconds.append(collective(name, size, team))
        if process.is_main:
            out.write_text(json.dumps(summary(steps, heard) | {"work": work, "device": process.device.type}))


def undisturbed(step: Step | None, process: Process) -> tuple[float, float]:
    """Seconds of a step, the slowest process's, and the share of the cores that other programs took. Collective."""
    begun, busy, mine = time.perf_counter(), busy_seconds(), time.process_time()
    seconds = 0.0 if step is None else step()
    ours = sum(process.gather(time.process_time() - mine))  # also the end: all are done
    others = busy_seconds() - busy - ours
    slowest = max(process.gather(seconds))  # which is what a step together waits for
    return slowest, process.gather(others / (os.cpu_count() or 1) / (time.perf_counter() - begun))[0]


def busy_seconds() -> float:
    """Seconds that all cores together have worked for processes, since boot.

    Interrupts are left out: our own loopback traffic runs there, and no process is charged for it.
    """
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def summary(steps: list[Turn], heard: dict[tuple[int, str, int], list[float]]) -> dict[str, Any]:
    """Seconds by kind, network and share or number of processes; of collectives by processes, name and bytes."""
    found: dict[str, Any] = {"alone": {}, "together": {}, "collectives": {}}
    for turn in steps:
        found[turn.kind].setdefault(turn.size, {})[turn.key] = turn.seconds
    for (count, name, size), seconds in heard.items():
        found["collectives"].setdefault(count, {}).setdefault(name, {})[size] = seconds
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
