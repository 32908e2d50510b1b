"""The paper's experiments from one checkpoint (Brock et al. 2018, section 4.2): freeze a network or change a rate."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from biggan.errors import NonFiniteError
from biggan.runs.lineage import Ancestor


@dataclass(frozen=True)
class Experiment:
    """One change, in force from the checkpoint on."""

    name: str
    overrides: tuple[str, ...]


def experiments(steps: int) -> tuple[Experiment, ...]:
    """Return the paper's experiments over `steps` G steps, and the unchanged run."""
    return (
        Experiment("unchanged", ()),
        Experiment("G frozen", (f"training.freeze_g_steps={steps}",)),
        Experiment("D frozen", (f"training.freeze_d_steps={steps}",)),
        Experiment("G's rate doubled", ("optimizer.g_lr=x2",)),
        Experiment("D's rate doubled", ("optimizer.d_lr=x2",)),
        Experiment("G's rate halved", ("optimizer.g_lr=x0.5",)),
    )


def overrides(experiment: Experiment, parent: Ancestor, steps: int) -> list[str]:
    """Return the overrides of the experiment's child run, which logs often, keeps little, and never halts."""
    return [
        f"training.steps={parent.step + steps}",
        f"training.log_every_steps={max(1, steps // 100)}",
        f"checkpoint.every_steps={steps}",
        f"samples.every_steps={steps}",
        "collapse.on_collapse=continue",
        *experiment.overrides,
    ]


def folder(parent: Ancestor, steps: int) -> Path:
    """Return the folder of a probe's child runs."""
    return parent.run / "probes" / f"step_{parent.step:08d}_{steps}"


def run_dir(parent: Ancestor, steps: int, experiment: Experiment) -> Path:
    """Return the run folder of one experiment."""
    return folder(parent, steps) / experiment.name.replace("'", "").replace(" ", "_")


def draw(parent: Ancestor, steps: int) -> Path:
    """Plot D's loss in every experiment in one figure; return its path."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for experiment in experiments(steps):
        file = run_dir(parent, steps, experiment) / "metrics.jsonl"
        rows = [row for line in file.read_text(encoding="utf-8").splitlines() if "g_loss" in (row := json.loads(line))]
        axes.plot(
            [row["step"] for row in rows],
            [sum(value for name, value in row.items() if name.startswith("d_loss")) for row in rows],
            label=experiment.name,
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel="G step", ylabel="D's loss, both terms", title=f"{parent.run}, from step {parent.step}")
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder(parent, steps) / "probe.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def make(parent: Ancestor, steps: int, train_child: Callable[[Path, list[str]], None]) -> None:
    """Run `train_child(run_dir, overrides)` for every experiment in turn. A non-finite run is a result, too."""
    for experiment in experiments(steps):
        with suppress(NonFiniteError):
            train_child(run_dir(parent, steps, experiment), overrides(experiment, parent, steps))
