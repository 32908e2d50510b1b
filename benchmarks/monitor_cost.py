"""Measures the cost of the collapse monitor as a fraction of training time, in one run.

    python benchmarks/monitor_cost.py [--network cifar10|imagenet64] [--batch-size 32] [--between 50] [--rounds 3]

Trains on random images in the preset's bfloat16 and channels-last. A cold spectrum is the first one, of the initial
weights. A warm spectrum follows after `--between` more steps at the preset's learning rates. Quality is the probe on
images: diversity, steepness, D's gradient, memorization. Fractions are those at the preset's cadences. One process
measures everything here; in a run of several processes, each measures its own part.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from biggan.collapse.quality import REAL_IMAGES, QualityProbe, RealImages
from biggan.collapse.spectrum import Spectrum
from biggan.config import Config
from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process, this_device
from biggan.gan import Gan
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step

CONFIGS = Path(__file__).parents[1] / "configs"


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def trainer(config: Config) -> tuple[Gan, Callable[[], object]]:
    """Return the networks and a function that runs one training step."""
    process = Process(0, 1, this_device(), None)
    gan = build.gan(config, process, FiniteGuard(process.device))
    recipe = compose(config, gan, build.autocast(config, process.device))
    draws = build.draws(config, process)
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    n, r = config.micro_batch_size, config.model.resolution
    x = torch.rand(n, 3, r, r, device=process.device).mul_(2).sub_(1).contiguous(memory_format=layout)
    y = torch.randint(config.model.classes, (n,), device=process.device)
    numbers = itertools.count(1)
    return gan, lambda: train_step(gan, next(numbers), itertools.repeat((x, y)), draws, recipe)


def quality_probe(config: Config, gan: Gan) -> Callable[[], object]:
    """Return a function that runs the quality probe once, with random real images."""
    process, r = Process(0, 1, this_device(), None), config.model.resolution
    real = [
        RealImages(torch.randint(256, (REAL_IMAGES, 3, r, r), dtype=torch.uint8), torch.zeros(REAL_IMAGES).long())
        for _ in range(2)
    ]
    probe = QualityProbe(
        classes=config.model.classes, z_dim=config.model.effective_z_dim, seed=0, process=process,
        train=real[0], held_out=real[1],
    )  # fmt: skip
    networks = gan.generator.module, gan.ema.module, gan.discriminator.module

    def measure() -> object:
        with build.autocast(config, process.device):
            return probe.measure(*networks, level=0.0)

    return measure


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["cifar10", "imagenet64"], default="cifar10")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--between", type=int, default=50, help="steps between two warm measurements")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    streams = f"data.streams={arguments.batch_size}"
    overrides = [f"training.batch_size={arguments.batch_size}", streams, "run.dir=unused", "data.path=unused"]
    config = resolve(CONFIGS / f"{arguments.network}.yaml", [*overrides, *arguments.overrides])
    gan, step = trainer(config)
    networks = {"G": gan.generator.module, "D": gan.discriminator.module}
    count = config.collapse.top_singular_values
    cold = [seconds(Spectrum(networks, count, 0, 1).measure) for _ in range(arguments.rounds)]
    spectrum = Spectrum(networks, count, 0, 1)
    spectrum.measure()
    probe = quality_probe(config, gan)
    steps: list[float] = []
    warm: list[float] = []
    quality: list[float] = []
    for _ in range(arguments.rounds):
        steps += [seconds(step) for _ in range(arguments.between)]
        warm.append(seconds(spectrum.measure))
        quality.append(seconds(probe))
    elements = sum(p.numel() for network in networks.values() for p in network.parameters())
    one_step, cadences = statistics.median(steps), config.collapse
    print(f"{arguments.network}: {len(spectrum.layers)} weights, {elements / 1e6:.1f} million parameters in total")
    print(f"one step of batch {arguments.batch_size}: {one_step:.3f} s ({torch.get_num_threads()} threads)")
    for name, taken, cadence in (
        ("cold spectrum", cold, cadences.spectrum_every_steps),
        ("warm spectrum", warm, cadences.spectrum_every_steps),
        ("quality", quality, cadences.quality_every_steps),
    ):
        once = statistics.median(taken)
        fraction = once / (cadence * one_step)
        print(f"{name}: {once:.3f} s, {100 * fraction:.2f}% of training time at one every {cadence} steps")


if __name__ == "__main__":
    main()
