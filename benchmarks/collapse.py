"""Small runs on real images that are made to collapse, and healthy ones: does the monitor see it in time, and mend it?

    python benchmarks/collapse.py table [--seeds 3 4 5] [--work runs/collapse]
    python benchmarks/collapse.py rescue [--seeds 3 4 5 6] [--work runs/collapse]
    python benchmarks/collapse.py resume [--seeds 3 4 5 6] [--work runs/collapse]

For each seed a run on the handwritten digits is trained until it is healthy: 900 steps of the preset. From there child
runs go on for 300 steps: some as they are, some changed so that they collapse. What happened is judged from samples
alone: a classifier of the real scans reads the class asked for, and distances inside a class are held against the real
ones (digits_quality.py). The floor is accuracy 0.5, or half of the diversity there was. The monitor sees neither.

`table` prints when each run fell to the floor and when the monitor spoke; it ends with 1 if it was late in more than a
tenth of the collapses, or said `collapsing` in a healthy run. `rescue` lets runs that collapse roll back by themselves,
and holds their quality at the end, past twice the step of the collapse, against the best of any checkpoint before it.
Quality is accuracy times diversity: before a generator has learnt anything its noise is more varied than any digits.
`resume` lets them halt, and goes on by hand from RUN@good. Neither simply undoes the change that made the run collapse:
what is done leaves a part of it. The thresholds were chosen on seeds 0 and 1; the table is made of others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from digits_quality import quality

ROOT = Path(__file__).parents[1]
HEALTHY_STEPS = 900
CHILD_STEPS = 300
LOOK_EVERY_STEPS = 25
PER_CLASS = 20
BASE = [
    "training.log_every_steps=5",
    "collapse.spectrum_every_steps=10", "collapse.quality_every_steps=10",
    "checkpoint.every_steps=100", "samples.every_steps=100", "tracking.mlflow=false",
]  # fmt: skip
WATCHED = [
    f"checkpoint.every_steps={LOOK_EVERY_STEPS}", "checkpoint.keep_last=1000", "collapse.on_collapse=continue",
]  # fmt: skip
NON_FINITE = """
import biggan.startup.build as build
from biggan.cli import main
plain, calls = build.HINGE, 0

def generator(logits):
    global calls
    calls += 1
    return plain.generator(logits) * (float("inf") if calls == 100 else 1)

build.HINGE = plain._replace(generator=generator)
main()
"""


@dataclass(frozen=True)
class Kind:
    """A way for a child run to go on; `mend`: what a rollback does about it, if anything can; `by_hand`: the
    same as interventions of child runs, one after the other if the one before collapses too."""

    name: str
    collapses: bool
    overrides: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()
    by_hand: tuple[tuple[str, ...], ...] = ()
    script: str = "from biggan.cli import main\nmain()\n"

    def folder(self, beside: Path) -> Path:
        """Its run folder, beside the run that it comes from."""
        return beside.with_name("".join(c if c.isalnum() else "_" for c in self.name))


KINDS = (
    Kind(
        "both learning rates x 10",
        True,
        ("intervention.g_lr_factor=10.0", "intervention.d_lr_factor=10.0"),
        ("rollback.g_lr_factor=0.2", "rollback.d_lr_factor=0.2"),
        (
            ("intervention.g_lr_factor=2.0", "intervention.d_lr_factor=2.0"),
            ("intervention.g_lr_factor=0.4", "intervention.d_lr_factor=0.4"),
        ),
    ),
    Kind("D frozen", True, (f"intervention.freeze_d_steps={CHILD_STEPS}",)),
    Kind(
        "D's learning rate by 50",
        True,
        ("intervention.d_lr_factor=0.02",),
        ("rollback.d_lr_factor=20.0",),
        (("intervention.d_lr_factor=0.4", "intervention.g_lr_factor=0.5"),),  # a rollback halves G's by default
    ),
    Kind(
        "G's learning rate x 20",
        True,
        ("optimizer.g_lr=16e-3",),
        ("rollback.g_lr_factor=0.1",),
        (("intervention.g_lr_factor=0.1",),),
    ),
    Kind("non-finite loss at step 100", True, script=NON_FINITE),
    Kind("unchanged", False),
    Kind("another seed", False, ("run.seed=1000",)),
    Kind("G's learning rate by 2", False, ("intervention.g_lr_factor=0.5",)),
    Kind("R1, gamma 1", False, ("intervention.r1_gamma=1.0",)),
)


@dataclass(frozen=True)
class Outcome:
    """Of one child run: G steps after the change."""

    kind: Kind
    seed: int
    floor: int | None
    """When samples were first at the floor."""
    warned: int | None
    alarmed: int | None
    """When the monitor first said `collapsing` or `collapsed`."""
    accuracy: float
    diversity: float
    """Of the last checkpoint's samples; diversity relative to the healthy run's."""


def biggan(script: str, arguments: Iterable[str], log: Path, expect: tuple[int, ...] = (0,)) -> None:
    """Run the command on one thread; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        command = [sys.executable, "-c", script, *arguments]
        code = subprocess.run(command, stdout=file, stderr=file, env=environment, cwd=ROOT, check=False).returncode
    if code not in expect:
        sys.exit(f"{' '.join(arguments)}: ended with {code}\n{log.read_text()[-2000:]}")


def healthy(work: Path, seed: int) -> Path:
    """The run that the children of a seed come from."""
    run = work / f"seed_{seed}" / "healthy"
    changes = [f"run.dir={run}", f"run.seed={seed}", f"training.steps={HEALTHY_STEPS}", *BASE]
    biggan(KINDS[-1].script, ["train", "configs/digits.yaml", *changes], run.with_suffix(".log"))
    return run


def child(parent: Path, kind: Kind, seed: int) -> Outcome:
    """Run one child to its end, and look at all its checkpoints."""
    run = kind.folder(parent)
    changes = [*WATCHED, f"training.steps={HEALTHY_STEPS + CHILD_STEPS}", *kind.overrides]
    arguments = ["train", "--resume", f"{parent}@{HEALTHY_STEPS}", "--as", str(run), *changes]
    biggan(kind.script, arguments, run.with_suffix(".log"), expect=(0, 3))
    looks = [(step - HEALTHY_STEPS, *look(run, step)) for step in checkpoints(run)]
    whole = looks[0][2]
    events = [json.loads(line) for line in events_of(run)]
    fallen = [step for step, accuracy, diversity in looks if accuracy < 0.5 or diversity < 0.5 * whole]
    said = {
        level: [event["step"] - HEALTHY_STEPS for event in events if event["level"] in level]
        for level in (("warning",), ("collapsing", "collapsed"))
    }
    warned, alarmed = (min(steps, default=None) for steps in said.values())
    return Outcome(kind, seed, min(fallen, default=None), warned, alarmed, looks[-1][1], looks[-1][2] / whole)


def checkpoints(run: Path) -> list[int]:
    """Steps of a run's checkpoints."""
    return sorted(int(folder.name[5:]) for folder in (run / "checkpoints").glob("step_*"))


def look(run: Path, step: int) -> tuple[float, float]:
    """Accuracy and diversity of the averaged generator's samples."""
    found = quality(run / "checkpoints" / f"step_{step:08d}", per_class=PER_CLASS)
    return found["accuracy"], found["diversity"]


def events_of(run: Path) -> list[str]:
    """The lines of events.jsonl, none if there was no event."""
    file = run / "collapse" / "events.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def table(work: Path, seeds: list[int]) -> int:
    """Print the table; the exit code."""
    with ThreadPoolExecutor(2) as pool:
        parents = dict(zip(seeds, pool.map(lambda seed: healthy(work, seed), seeds), strict=True))
        cases = [(parents[seed], kind, seed) for kind in KINDS for seed in seeds]
        outcomes = list(pool.map(lambda case: child(*case), cases))
    print("| run | seed | floor after | warning after | alarm after | lead | accuracy, diversity at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for o in outcomes:
        lead = "" if o.floor is None or o.alarmed is None else f"{o.floor - o.alarmed}"
        cells = (o.kind.name, o.seed, o.floor, o.warned, o.alarmed, lead, f"{o.accuracy:.2f}, {o.diversity:.2f}")
        print("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return verdict(outcomes)


def in_time(o: Outcome) -> bool:
    """A collapse seen no later than samples showed it; non-finite ones never reach the weights."""
    return o.alarmed is not None and (o.floor is None or o.alarmed <= o.floor)


def verdict(outcomes: list[Outcome]) -> int:
    """Say how many were seen in time, and how many healthy runs were alarmed; 1 if not good enough."""
    collapses = [o for o in outcomes if o.floor is not None or o.kind.script == NON_FINITE]
    others = [o for o in outcomes if o not in collapses]
    seen, false = sum(map(in_time, collapses)), [o for o in others if o.alarmed is not None and not o.kind.collapses]
    spared = [f"{o.kind.name}, seed {o.seed}" for o in others if o.kind.collapses]
    print(f"\n{seen} of {len(collapses)} collapses seen in time; {len(false)} false alarms in healthy runs")
    if spared:
        print(f"changed, but not at the floor after {CHILD_STEPS} steps: {'; '.join(spared)}")
    return 0 if seen >= 0.9 * len(collapses) and not false else 1


@dataclass(frozen=True)
class Rescue:
    """Of one run that collapsed: when, where it went on from, how far it came, and how its samples were there."""

    collapsed: list[int]
    good: list[int]
    reached: int
    best: tuple[float, float]
    """Accuracy and diversity of the best checkpoint from before the collapse."""
    after: tuple[float, float]

    @property
    def ok(self) -> bool:
        """At least twice as far as the first collapse, with quality within a tenth of the best before it."""
        well = math.prod(self.after) >= 0.9 * math.prod(self.best)
        return bool(self.collapsed) and self.reached >= 2 * self.collapsed[0] and well


def rescue(work: Path, seeds: list[int], go: Callable[[Path, Kind], Rescue]) -> int:
    """Rescue the runs that can be mended by `go`; print the table; the exit code."""
    kinds = [kind for kind in KINDS if kind.mend]
    with ThreadPoolExecutor(2) as pool:
        parents = dict(zip(seeds, pool.map(lambda seed: healthy(work, seed), seeds), strict=True))
        cases = [(seed, kind) for kind in kinds for seed in seeds]
        rescued = list(pool.map(lambda case: go(parents[case[0]], case[1]), cases))
    print("| run | seed | collapse seen at | went back to | goes on to | accuracy | diversity | quality | rescued |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for (seed, kind), r in zip(cases, rescued, strict=True):
        pairs = [*zip(r.after, r.best, strict=True), (math.prod(r.after), math.prod(r.best))]
        figures = [f"{now:.2f} (best {before:.2f})" for now, before in pairs]
        seen, good = (", ".join(map(str, steps)) for steps in (r.collapsed, r.good))
        print(
            "|", " | ".join([kind.name, str(seed), seen, good, str(r.reached), *figures, "yes" if r.ok else "no"]), "|"
        )
    share = {kind.name: sum(r.ok for (_, k), r in zip(cases, rescued, strict=True) if k is kind) for kind in kinds}
    print(f"\nrescued, of {len(seeds)} seeds: {share}")
    return 0 if all(count >= 0.75 * len(seeds) for count in share.values()) else 1


FAR_ENOUGH = f"training.steps={2 * (HEALTHY_STEPS + 150)}"
"""Collapses are seen within 150 steps."""


def by_itself(parent: Path, kind: Kind) -> Rescue:
    """One child that may roll back by itself."""
    run = kind.folder(parent).with_name(f"rescue_{kind.folder(parent).name}")
    arguments = ["train", "--resume", f"{parent}@{HEALTHY_STEPS}", "--as", str(run), *kind.overrides, *kind.mend]
    changes = ["collapse.on_collapse=rollback", FAR_ENOUGH]
    biggan(kind.script, [*arguments, *changes], run.with_suffix(".log"), expect=(0, 7))
    back = [event for event in map(json.loads, events_of(run)) if event["action"] == "rolled back"]
    collapsed, good = ([event[key] for event in back] for key in ("step", "good_step"))
    return Rescue(collapsed, good, *end_of(parent, run))


def by_hand(parent: Path, kind: Kind) -> Rescue:
    """One child that halts, and a child of its own that goes on from its last good checkpoint; again if that halts."""
    run = kind.folder(parent).with_name(f"halt_{kind.folder(parent).name}")
    arguments = ["train", "--resume", f"{parent}@{HEALTHY_STEPS}", "--as", str(run), *kind.overrides, FAR_ENOUGH]
    biggan(kind.script, arguments, run.with_suffix(".log"), expect=(7,))
    halts = []
    for attempt, changes in enumerate(kind.by_hand, 1):
        halts.append(halt_of(run))
        if halts[-1] is None:
            break
        again = kind.folder(parent).with_name(f"resume_{attempt}_{kind.folder(parent).name}")
        arguments = ["train", "--resume", f"{run}@good", "--as", str(again), *changes]
        biggan(kind.script, arguments, again.with_suffix(".log"), expect=(0, 7))
        run = again
    collapsed, good = ([halt[key] for halt in halts if halt is not None] for key in ("step", "good_step"))
    return Rescue(collapsed, good, *end_of(parent, run))


def halt_of(run: Path) -> dict[str, int] | None:
    """The event that halted a run; None if nothing did."""
    return next((event for event in map(json.loads, events_of(run)) if event["action"] == "halted"), None)


def end_of(parent: Path, run: Path) -> tuple[int, tuple[float, float], tuple[float, float]]:
    """How far a rescued run came, and how its healthy parent was at its best, and itself at the end."""
    reached = checkpoints(run)[-1]
    return reached, max((look(parent, step) for step in checkpoints(parent)), key=math.prod), look(run, reached)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("table", "rescue", "resume"))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--work", type=Path, default=Path("runs/collapse"))
    arguments = parser.parse_args()
    if not (ROOT / "data/digits/dataset.json").exists():
        biggan(KINDS[-1].script, ["pack", "digits", "data/digits", "--resolution", "32"], arguments.work / "pack.log")
    if arguments.command == "table":
        sys.exit(table(arguments.work, arguments.seeds or [3, 4, 5]))
    go = by_itself if arguments.command == "rescue" else by_hand
    sys.exit(rescue(arguments.work, arguments.seeds or [3, 4, 5, 6], go))


if __name__ == "__main__":
    main()
