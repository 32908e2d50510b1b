"""Compares the predictions of `--dry-run` for one GPU (memory, seconds of a G iteration) with measurements.

    python benchmarks/dry_run_check.py [PRESET:IMAGES ...] [--steps 20] [--compile]

Each preset runs in full size with IMAGES images per step. The images are random, so the loader is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch
from throughput import stepper

from biggan.config import Config
from biggan.config.preset import resolve
from biggan.cost.estimate import estimate

CONFIGS = Path(__file__).parents[1] / "configs"
MEASURED = ["cifar10:64", "imagenet64:64", "imagenet128:32", "imagenet128-deep:32", "imagenet256:16", "imagenet512:8"]
GIB = 2**30


def config_of(name: str, compiled: bool) -> tuple[str, Config]:
    """Return PRESET:IMAGES and the preset's config with that number of images per step."""
    preset, images = name.split(":")
    return name, resolve(
        CONFIGS / f"{preset}.yaml",
        [
            f"training.batch_size={images}",
            f"data.streams={images}",
            "training.accumulation=1",
            f"training.compile={str(compiled).lower()}",
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=MEASURED, metavar="PRESET:IMAGES")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="run under torch.compile")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/dry_run_check.py: no GPU found; on a CPU run benchmarks/scaling_model.py check")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}{', compiled' if arguments.compile else ''}")
    print(f"{'preset:images':<22}{'GiB pred.':>10}{'meas.':>7}{'s pred.':>9}{'meas.':>8}{'images/s':>10}{'TFLOP/s':>9}")
    for name, config in (config_of(name, arguments.compile) for name in arguments.presets):
        predicted = estimate(config, 1)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = stepper(config)
        seconds = statistics.median([step() for _ in range(arguments.steps + 5)][5:])
        gib = torch.cuda.max_memory_allocated() / GIB
        del step
        rates = f"{config.training.batch_size / seconds:>10.0f}{predicted.tflop_per_step / seconds:>9.1f}"
        ddp = predicted.costs[0]
        print(
            f"{name:<22}{ddp.memory.total / GIB:>10.2f}{gib:>7.2f}{ddp.seconds.total:>9.4f}{seconds:>8.4f}{rates}",
            flush=True,
        )


if __name__ == "__main__":
    main()
