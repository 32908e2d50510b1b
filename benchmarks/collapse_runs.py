"""Runs of benchmarks/collapse.py: the parent run, the kinds of child runs, and the quality of their samples."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from digits_quality import quality

ROOT = Path(__file__).parents[1]
HEALTHY_STEPS = 900
CHILD_STEPS = 300
CHECKPOINT_EVERY_STEPS = 25
PER_CLASS = 20
BASE = [
    "training.log_every_steps=5",
    "collapse.spectrum_every_steps=10", "collapse.quality_every_steps=10",
    "checkpoint.every_steps=100", "samples.every_steps=100", "tracking.mlflow=false",
]  # fmt: skip
WATCHED = [
    f"checkpoint.every_steps={CHECKPOINT_EVERY_STEPS}", "checkpoint.keep_last=1000", "collapse.on_collapse=continue",
]  # fmt: skip
NON_FINITE = """
from dataclasses import replace
from biggan.cli import main
from biggan.objectives.adversarial import LOSSES
plain, calls = LOSSES["hinge"], 0

def g_loss(logits):
    global calls
    calls += 1
    return plain.g_loss(logits) * (float("inf") if calls == 100 else 1)

LOSSES["hinge"] = replace(plain, g_loss=g_loss)
main()
"""


@dataclass(frozen=True)
class Kind:
    """A kind of child run."""

    name: str
    collapses: bool
    """True if the change is expected to cause a collapse."""
    overrides: tuple[str, ...] = ()
    rollback_overrides: tuple[str, ...] = ()
    """Fix that a rollback applies; empty if none exists."""
    manual_overrides: tuple[tuple[str, ...], ...] = ()
    """The same fix in child runs; each is a child of the one before, if that collapses too."""
    script: str = "from biggan.cli import main\nmain()\n"

    def folder(self, beside: Path) -> Path:
        """Return the run folder, beside that of the parent run."""
        return beside.with_name("".join(c if c.isalnum() else "_" for c in self.name))


KINDS = (
    Kind(
        "both learning rates x 10",
        True,
        ("optimizer.g_lr=x10", "optimizer.d_lr=x10"),
        ("rollback.optimizer.g_lr=x0.2", "rollback.optimizer.d_lr=x0.2"),
        (("optimizer.g_lr=x0.2", "optimizer.d_lr=x0.2"),) * 2,
    ),
    Kind("D frozen", True, (f"training.freeze_d_steps={CHILD_STEPS}",)),
    Kind(
        "D's learning rate by 50",
        True,
        ("optimizer.d_lr=x0.02",),
        ("rollback.optimizer.d_lr=x20",),
        (("optimizer.d_lr=x20", "optimizer.g_lr=x0.5"),),  # a rollback halves G's by default
    ),
    Kind(
        "G's learning rate x 20",
        True,
        ("optimizer.g_lr=16e-3",),
        ("rollback.optimizer.g_lr=x0.1",),
        (("optimizer.g_lr=x0.1",),),
    ),
    Kind("non-finite loss at step 100", True, script=NON_FINITE),
    Kind("unchanged", False),
    Kind("another seed", False, ("run.seed=1000",)),
    Kind("G's learning rate by 2", False, ("optimizer.g_lr=x0.5",)),
    Kind("R1, gamma 1", False, ("objective.r1.gamma=1.0",)),
)


def biggan(script: str, arguments: Iterable[str], log: Path, expect: tuple[int, ...] = (0,)) -> None:
    """Run the command on one thread and write its output to `log`; exit if its exit code is not in `expect`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        command = [sys.executable, "-c", script, *arguments]
        code = subprocess.run(command, stdout=file, stderr=file, env=environment, cwd=ROOT, check=False).returncode
    if code not in expect:
        sys.exit(f"{' '.join(arguments)}: exit code {code}\n{log.read_text()[-2000:]}")


def healthy(work: Path, seed: int) -> Path:
    """Train the parent run of a seed and return its folder."""
    run = work / f"seed_{seed}" / "healthy"
    changes = [f"run.dir={run}", f"run.seed={seed}", f"training.steps={HEALTHY_STEPS}", *BASE]
    biggan(KINDS[-1].script, ["train", "configs/digits.yaml", *changes], run.with_suffix(".log"))
    return run


def checkpoints(run: Path) -> list[int]:
    """Return the steps of a run's checkpoints, ascending."""
    return sorted(int(folder.name[5:]) for folder in (run / "checkpoints").glob("step_*"))


def sample_quality(run: Path, step: int) -> tuple[float, float]:
    """Return accuracy and diversity of the EMA generator's samples at a checkpoint."""
    figures = quality(run / "checkpoints" / f"step_{step:08d}", per_class=PER_CLASS)
    return figures["accuracy"], figures["diversity"]


def events_of(run: Path) -> list[str]:
    """Return the lines of events.jsonl; empty if there was no event."""
    file = run / "collapse" / "events.jsonl"
    return file.read_text().splitlines() if file.exists() else []
