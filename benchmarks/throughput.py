"""Measures training throughput of the CIFAR network: tuned modes against float32, contiguous, eager, in one run.

    python benchmarks/throughput.py [--channels 64] [--batch-size 32] [--rounds 5] [--compile]

One iteration is a complete training step: 2 D steps, 1 G step, EMA. Images per second are batch size / seconds per
iteration. The modes alternate, so the ratio (the median over rounds) is robust when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from biggan.config import Config
from biggan.config.preset import resolve
from biggan.cost.estimate import estimate
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import join
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step

PRESET = Path(__file__).parents[1] / "configs" / "cifar10.yaml"
PLAIN = ["training.precision=float32", "training.channels_last=false", "training.compile=false"]
TUNED = ["training.precision=bfloat16", "training.channels_last=true"]


def images(config: Config, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same random micro-batch repeatedly, so that the loader is not measured."""
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    r = config.model.resolution
    x = torch.rand(config.micro_batch_size, 3, r, r, device=device).mul_(2).sub_(1)
    y = torch.randint(config.model.classes, (config.micro_batch_size,), device=device)
    return itertools.repeat((x.contiguous(memory_format=layout), y))


def stepper(config: Config) -> Callable[[], float]:
    """Return a function that runs one training step and returns its seconds."""
    with join(config.distributed.timeout_seconds) as process:
        gan = build.gan(config, process, FiniteGuard(process.device))
        recipe = compose(config, gan, build.autocast(config, process.device))
        draws = build.draws(config, process)
        real = images(config, process.device)
    numbers = itertools.count(1)

    def step() -> float:
        start = time.perf_counter()
        stats = train_step(gan, next(numbers), real, draws, recipe)
        stats["g_loss"].item()  # synchronizes with the device
        return time.perf_counter() - start

    return step


def convolution_speedup(rounds: int) -> float:
    """Return the speedup of the tuned mode for one 3x3 convolution alone: an upper bound for the ratio."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for tuned in seconds:
            layout = torch.channels_last if tuned else torch.contiguous_format
            convolution = torch.nn.Conv2d(256, 256, 3, padding=1).to(memory_format=layout)
            x = torch.randn(32, 256, 16, 16).to(memory_format=layout).requires_grad_()
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
                convolution(x).float().sum().backward()
            seconds[tuned].append(time.perf_counter() - start)
    return statistics.median(plain / tuned for plain, tuned in zip(seconds[False][1:], seconds[True][1:], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also measure the tuned mode under torch.compile")
    arguments = parser.parse_args()
    size = [f"model.channels={arguments.channels}", f"training.batch_size={arguments.batch_size}"]
    modes = {"float32, contiguous, eager": PLAIN, "bfloat16, channels-last": TUNED}
    if arguments.compile:
        modes["bfloat16, channels-last, compiled"] = [*TUNED, "training.compile=true"]
    configs = {name: resolve(PRESET, [*size, *mode]) for name, mode in modes.items()}
    steppers = {name: stepper(config) for name, config in configs.items()}
    for step in steppers.values():
        step()
    seconds = {name: [] for name in modes}
    for _ in range(arguments.rounds):
        for name, step in steppers.items():
            seconds[name].append(step())
    tflop = estimate(next(iter(configs.values())), 1).tflop_per_step
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {tflop:.3f} TFLOP per step")
    baseline = seconds["float32, contiguous, eager"]
    for name, taken in seconds.items():
        median = statistics.median(taken)
        ratio = statistics.median(b / t for b, t in zip(baseline, taken, strict=True))
        rate = f"{arguments.batch_size / median:6.1f} images/s  {tflop / median:5.2f} TFLOP/s"
        print(f"{name:<36} {rate}  {ratio:5.2f} x float32")
    speedup = convolution_speedup(arguments.rounds)
    print(f"speedup of one 3x3 convolution alone in the tuned mode on this CPU: {speedup:.2f} x")


if __name__ == "__main__":
    main()
