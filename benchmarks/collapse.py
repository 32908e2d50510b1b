"""Measures how early the collapse monitor detects forced collapses, and whether runs recover from them.

    python benchmarks/collapse.py table [--seeds 3 4 5] [--work runs/collapse]
    python benchmarks/collapse.py rescue [--seeds 3 4 5 6] [--work runs/collapse]
    python benchmarks/collapse.py resume [--seeds 3 4 5 6] [--work runs/collapse]

For each seed a run on the handwritten digits is trained for 900 steps of the preset, until it is healthy. Child runs
then continue for 300 steps: some unchanged, some changed so that they collapse. Collapse is judged from samples alone
(digits_quality.py): a classifier of the real scans measures accuracy for the conditioned class, and distances inside
each class, relative to real ones, measure diversity. The floor is accuracy 0.5, or half of the initial diversity. The
monitor sees neither.

`table` prints when each run reached the floor and when the monitor reported. It exits with 1 if the monitor was late
for more than a tenth of the collapses, or reported `collapsing` in a healthy run. `rescue` lets collapsing runs roll
back automatically. It compares their quality at the end, after more than twice the step of the collapse, with the best
checkpoint before the collapse. Quality is accuracy times diversity, because the noise of an untrained generator is
more diverse than any digits. `resume` lets the runs halt and continues them manually from RUN@good. Neither simply
undoes the change that caused the collapse: a part of it remains. The thresholds were chosen on seeds 0 and 1; use other
seeds here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from collapse_runs import (
    CHILD_STEPS,
    HEALTHY_STEPS,
    KINDS,
    NON_FINITE,
    ROOT,
    WATCHED,
    Kind,
    biggan,
    checkpoints,
    events_of,
    healthy,
    sample_quality,
)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one child run. Steps are G steps after the change."""

    kind: Kind
    seed: int
    floor: int | None
    """First step with samples at the floor."""
    warned: int | None
    """First step at which the monitor reported `warning`."""
    alarmed: int | None
    """First step at which the monitor reported `collapsing` or `collapsed`."""
    accuracy: float
    """Accuracy of the last checkpoint's samples."""
    diversity: float
    """Diversity of the last checkpoint's samples, relative to the healthy run's."""


def child(parent: Path, kind: Kind, seed: int) -> Outcome:
    """Run one child to its end and judge all its checkpoints."""
    run = kind.folder(parent)
    changes = [*WATCHED, f"training.steps={HEALTHY_STEPS + CHILD_STEPS}", *kind.overrides]
    arguments = ["train", "--resume", f"{parent}@{HEALTHY_STEPS}", "--as", str(run), *changes]
    biggan(kind.script, arguments, run.with_suffix(".log"), expect=(0, 3))
    qualities = [(step - HEALTHY_STEPS, *sample_quality(run, step)) for step in checkpoints(run)]
    initial_diversity = qualities[0][2]
    events = [json.loads(line) for line in events_of(run)]
    at_floor = [
        step for step, accuracy, diversity in qualities if accuracy < 0.5 or diversity < 0.5 * initial_diversity
    ]
    reports = {
        level: [event["step"] - HEALTHY_STEPS for event in events if event["level"] in level]
        for level in (("warning",), ("collapsing", "collapsed"))
    }
    warned, alarmed = (min(steps, default=None) for steps in reports.values())
    _, accuracy, diversity = qualities[-1]
    return Outcome(kind, seed, min(at_floor, default=None), warned, alarmed, accuracy, diversity / initial_diversity)


def table(work: Path, seeds: list[int]) -> int:
    """Print the table of detection steps and return the exit code."""
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
    """Return True if the monitor alarmed no later than samples reached the floor.

    Non-finite losses never reach the weights, so their samples never reach the floor.
    """
    return o.alarmed is not None and (o.floor is None or o.alarmed <= o.floor)


def verdict(outcomes: list[Outcome]) -> int:
    """Print the numbers of timely detections and of false alarms; return 1 if they miss the target, else 0."""
    collapses = [o for o in outcomes if o.floor is not None or o.kind.script == NON_FINITE]
    others = [o for o in outcomes if o not in collapses]
    detected, false = (
        sum(map(in_time, collapses)),
        [o for o in others if o.alarmed is not None and not o.kind.collapses],
    )
    unaffected = [f"{o.kind.name}, seed {o.seed}" for o in others if o.kind.collapses]
    print(f"\n{detected} of {len(collapses)} collapses detected in time; {len(false)} false alarms in healthy runs")
    if unaffected:
        print(f"changed, but not at the floor after {CHILD_STEPS} steps: {'; '.join(unaffected)}")
    return 0 if detected >= 0.9 * len(collapses) and not false else 1


@dataclass(frozen=True)
class Rescue:
    """Recovery of one run that collapsed."""

    collapsed: list[int]
    """Steps of the detected collapses."""
    good: list[int]
    """Steps of the checkpoints that it continued from."""
    reached: int
    """Step of the last checkpoint."""
    best: tuple[float, float]
    """Accuracy and diversity of the best checkpoint before the collapse."""
    after: tuple[float, float]
    """Accuracy and diversity of the last checkpoint."""

    @property
    def ok(self) -> bool:
        """True if it reached twice the step of the first collapse with at least 0.9 of the best quality before it."""
        good_quality = math.prod(self.after) >= 0.9 * math.prod(self.best)
        return bool(self.collapsed) and self.reached >= 2 * self.collapsed[0] and good_quality


def rescue(work: Path, seeds: list[int], recover: Callable[[Path, Kind], Rescue]) -> int:
    """Recover the runs for which a fix exists with `recover`, print the table, and return the exit code."""
    kinds = [kind for kind in KINDS if kind.rollback_overrides]
    with ThreadPoolExecutor(2) as pool:
        parents = dict(zip(seeds, pool.map(lambda seed: healthy(work, seed), seeds), strict=True))
        cases = [(seed, kind) for kind in kinds for seed in seeds]
        rescued = list(pool.map(lambda case: recover(parents[case[0]], case[1]), cases))
    print("| run | seed | detected at | rolled back to | last step | accuracy | diversity | quality | rescued |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for (seed, kind), r in zip(cases, rescued, strict=True):
        pairs = [*zip(r.after, r.best, strict=True), (math.prod(r.after), math.prod(r.best))]
        figures = [f"{now:.2f} (best {before:.2f})" for now, before in pairs]
        detected, good = (", ".join(map(str, steps)) for steps in (r.collapsed, r.good))
        print(
            "|",
            " | ".join([kind.name, str(seed), detected, good, str(r.reached), *figures, "yes" if r.ok else "no"]),
            "|",
        )
    rescued_seeds = {
        kind.name: sum(r.ok for (_, k), r in zip(cases, rescued, strict=True) if k is kind) for kind in kinds
    }
    print(f"\nrescued, of {len(seeds)} seeds: {rescued_seeds}")
    return 0 if all(count >= 0.75 * len(seeds) for count in rescued_seeds.values()) else 1


FAR_ENOUGH = f"training.steps={2 * (HEALTHY_STEPS + 150)}"
"""Override for twice the latest step of a collapse; collapses are detected within 150 steps."""


def roll_back_automatically(parent: Path, kind: Kind) -> Rescue:
    """Run one child that may roll back automatically."""
    run = kind.folder(parent).with_name(f"rescue_{kind.folder(parent).name}")
    arguments = [
        "train",
        "--resume",
        f"{parent}@{HEALTHY_STEPS}",
        "--as",
        str(run),
        *kind.overrides,
        *kind.rollback_overrides,
    ]
    changes = ["collapse.on_collapse=rollback", FAR_ENOUGH]
    biggan(kind.script, [*arguments, *changes], run.with_suffix(".log"), expect=(0, 7))
    rollbacks = [event for event in map(json.loads, events_of(run)) if event["action"] == "rolled back"]
    collapsed, good = ([event[key] for event in rollbacks] for key in ("step", "good_step"))
    return Rescue(collapsed, good, *end_of(parent, run))


def resume_manually(parent: Path, kind: Kind) -> Rescue:
    """Run one child that halts, then a child of it from its last good checkpoint; repeat if that halts too."""
    run = kind.folder(parent).with_name(f"halt_{kind.folder(parent).name}")
    arguments = ["train", "--resume", f"{parent}@{HEALTHY_STEPS}", "--as", str(run), *kind.overrides, FAR_ENOUGH]
    biggan(kind.script, arguments, run.with_suffix(".log"), expect=(7,))
    halts = []
    for attempt, changes in enumerate(kind.manual_overrides, 1):
        halts.append(halt_of(run))
        if halts[-1] is None:
            break
        child_run = kind.folder(parent).with_name(f"resume_{attempt}_{kind.folder(parent).name}")
        arguments = ["train", "--resume", f"{run}@good", "--as", str(child_run), *changes]
        biggan(kind.script, arguments, child_run.with_suffix(".log"), expect=(0, 7))
        run = child_run
    collapsed, good = ([halt[key] for halt in halts if halt is not None] for key in ("step", "good_step"))
    return Rescue(collapsed, good, *end_of(parent, run))


def halt_of(run: Path) -> dict[str, int] | None:
    """Return the event that halted a run; None if it did not halt."""
    return next((event for event in map(json.loads, events_of(run)) if event["action"] == "halted"), None)


def end_of(parent: Path, run: Path) -> tuple[int, tuple[float, float], tuple[float, float]]:
    """Return the last step of a rescued run, its parent's best (accuracy, diversity), and its own at the end."""
    reached = checkpoints(run)[-1]
    return (
        reached,
        max((sample_quality(parent, step) for step in checkpoints(parent)), key=math.prod),
        sample_quality(run, reached),
    )


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
    recover = roll_back_automatically if arguments.command == "rescue" else resume_manually
    sys.exit(rescue(arguments.work, arguments.seeds or [3, 4, 5, 6], recover))


if __name__ == "__main__":
    main()
