"""Compares the training speed of a fine-tuned run and of a run from scratch on new classes.

    python benchmarks/fine_tuning.py cifar10-train.zip [--work runs/fine-tuning] [--source-steps 4000] [--steps 3000]
                                     [init.neighbours=[truck=automobile] ...]

A source run is trained on the first five classes of a zip of class folders (by name; for CIFAR-10: airplane,
automobile, bird, cat, deer). Then two runs train on the other five for the same number of steps: one from scratch, one
with `init.from` and the overrides given here. All use `biggan pack` and `biggan train`. After an interruption run the
same command again to resume.

Both are evaluated during training: Frechet distance of the EMA generator's images, in features of a classifier of the
five classes' real images. Draws both curves (docs/fine-tuning.png) and prints the first step at which the fine-tuned
run reaches the best value of the run from scratch. Exits with 1 if that is after half of the steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import matplotlib as mpl
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
CLASSES = 5
SMALL = [
    f"model.classes={CLASSES}", "model.channels=16", "training.batch_size=32", "ema.decay=0.99", "ema.start_step=0",
    "tracking.mlflow=false", "collapse.on_collapse=continue", "checkpoint.horizon_steps=0",
]  # fmt: skip


def biggan(*arguments: str) -> None:
    """Run the command and show its output."""
    subprocess.run([sys.executable, "-m", "biggan", *arguments], check=True)


def packed(archive: Path, work: Path) -> list[Path]:
    """Return the data sets of the first and of the other five classes, packing them if they do not exist."""
    with zipfile.ZipFile(archive) as opened:
        classes = sorted({PurePosixPath(name).parts[0] for name in opened.namelist()})
    dests = [work / "data-first", work / "data-other"]
    for dest, chosen in zip(dests, (classes[:CLASSES], classes[CLASSES : 2 * CLASSES]), strict=True):
        if not (dest / "dataset.json").exists():
            biggan("pack", str(archive), str(dest), "--resolution", "32", "--classes", ",".join(chosen))
    return dests


def curve(run: Path) -> list[tuple[int, float]]:
    """Return (step, Frechet distance) of each evaluation."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["evaluation/fid"]) for row in rows if "evaluation/fid" in row]


def draw(curves: dict[str, list[tuple[int, float]]], file: Path) -> None:
    """Plot both curves with a logarithmic distance axis."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    axes.axhline(min(value for _, value in curves["from scratch"]), color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="generator steps", ylabel="Frechet distance, classifier features", yscale="log")
    axes.legend()
    figure.savefig(file, dpi=120)


def main(arguments: argparse.Namespace, overrides: Iterable[str]) -> int:
    """Train, evaluate and plot; return the exit code."""
    work, every = arguments.work, max(1, arguments.steps // arguments.measurements)
    work.mkdir(parents=True, exist_ok=True)
    first, other = packed(arguments.zip, work)

    def train(name: str, data: Path, steps: int, *more: str) -> Path:
        run = work / name
        cadence = [f"training.steps={steps}", f"checkpoint.every_steps={steps}"]
        places = [str(ROOT / "configs/cifar10.yaml"), f"run.dir={run}", f"data.path={data}"]
        biggan("train", *places, *SMALL, *cadence, *more)
        return run

    source = train("source", first, arguments.source_steps)
    measured = [f"evaluation.every_steps={every}", f"evaluation.num_images={arguments.images}", "run.seed=1"]
    scratch = train("scratch", other, arguments.steps, *measured)
    tuned = train("fine-tuned", other, arguments.steps, *measured, f"init.from={source}", *overrides)
    curves = {"from scratch": curve(scratch), "init.from": curve(tuned)}
    draw(curves, arguments.figure)
    for label, points in curves.items():
        sys.stdout.write(f"{label:13}" + "  ".join(f"{step}: {value:.4g}" for step, value in points) + "\n")
    goal = min(value for _, value in curves["from scratch"])
    reached = next((step for step, value in curves["init.from"] if value <= goal), None)
    sys.stdout.write(
        f"best from scratch: {goal:.4g} in {arguments.steps} steps; init.from reaches it at step {reached}\n"
    )
    return 0 if reached is not None and reached <= arguments.steps / 2 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zip", type=Path)
    parser.add_argument("overrides", nargs="*", help="key.sub=value for the fine-tuned run only")
    parser.add_argument("--work", type=Path, default=Path("runs/fine-tuning"))
    parser.add_argument("--source-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--measurements", type=int, default=20)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/fine-tuning.png")
    arguments = parser.parse_intermixed_args()
    sys.exit(main(arguments, arguments.overrides))
