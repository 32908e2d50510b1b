"""Compares techniques on the digits: class accuracy and diversity of three seeds, in one table.

    python benchmarks/techniques.py runs/techniques --data data/digits [--only wgan-gp hinge] [--steps 900]

Every run is trained by the command that its row names, and measured by digits_quality.py. Results are kept in
FOLDER/results.jsonl with the commit, so the benchmark continues where it stopped. Prints a Markdown table: the mean of
the seeds, and the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from digits_quality import quality

SEEDS = (0, 1, 2)
PRESET = Path(__file__).parents[1] / "configs/digits.yaml"
QUALITIES = ("accuracy", "worst_class_accuracy", "diversity", "worst_class_diversity")


@dataclass(frozen=True)
class Technique:
    """One row of the table."""

    name: str
    overrides: tuple[str, ...] = ()


TECHNIQUES = (
    Technique("hinge"),
    Technique(
        "wgan-gp",
        (
            "objective.loss=wasserstein",
            "objective.gradient_penalty.weight=10.0",
            "model.g_spectral_norm=false",
            "model.d_spectral_norm=false",
            "model.d_normalization=layer",
            "training.d_steps=5",
            "optimizer.g_lr=1e-4",
            "optimizer.d_lr=1e-4",
            "optimizer.beta2=0.9",
        ),
    ),
    Technique("non-saturating", ("objective.loss=non_saturating",)),
    Technique("least squares", ("objective.loss=least_squares",)),
    Technique("relativistic, average", ("objective.loss=relativistic_average",)),
    Technique(
        "relativistic, paired, R1, R2",
        ("objective.loss=relativistic_paired", "objective.r1.gamma=1.0", "objective.r2.gamma=1.0"),
    ),
    Technique("hinge, LeCam", ("objective.lecam.weight=0.3",)),
    Technique("hinge, translation", ("objective.augment=[translation]",)),
)


def train(technique: Technique, seed: int, folder: Path, data: Path, steps: int) -> dict[str, object]:
    """Train one run and return its row: figures, images per second, command and commit."""
    run = folder / f"{technique.name.replace(', ', '_').replace(' ', '_')}-{seed}"
    settings = [f"run.dir={run}", f"data.path={data}", f"run.seed={seed}", f"training.steps={steps}"]
    quiet = ["tracking.mlflow=false", f"samples.every_steps={steps}", f"checkpoint.every_steps={steps}"]
    command = ["train", str(PRESET), *settings, *technique.overrides, *quiet]
    subprocess.run([sys.executable, "-m", "biggan", *command], check=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [sum(v for name, v in row.items() if name.startswith("d_loss")) for row in rows]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "technique": technique.name,
        "seed": seed,
        "steps": steps,
        **quality(run),
        "images_per_second": statistics.median(row["images_per_second"] for row in rows),
        "d_loss_largest_and_last": [max(losses, key=abs), losses[-1]],
        "command": f"biggan {' '.join(command)}",
        "commit": commit.stdout.strip(),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Return the table of all rows."""
    lines = [f"| technique | {' | '.join(QUALITIES)} | images/s |", "| --- |" + " ---: |" * (len(QUALITIES) + 1)]
    for technique in TECHNIQUES:
        mine = [row for row in rows if row["technique"] == technique.name]
        if mine:
            cells = [spread([float(str(row[name])) for row in mine]) for name in QUALITIES]
            rate = statistics.median(float(str(row["images_per_second"])) for row in mine)
            lines.append(f"| {technique.name} | {' | '.join(cells)} | {rate:.0f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return the mean with the lowest and the highest value."""
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--only", nargs="*", choices=[technique.name for technique in TECHNIQUES])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = arguments.folder / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["technique"], row["seed"], row["steps"]) for row in rows}
    for seed in SEEDS:
        for technique in TECHNIQUES:
            wanted = not arguments.only or technique.name in arguments.only
            if wanted and (technique.name, seed, arguments.steps) not in done:
                rows.append(train(technique, seed, arguments.folder, arguments.data, arguments.steps))
                with results.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table([row for row in rows if row["steps"] == arguments.steps]))


if __name__ == "__main__":
    main()
