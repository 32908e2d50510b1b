"""Child runs: a checkpoint of one run is the beginning of another, and the child knows where it comes from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biggan.config import Config, interventions
from biggan.config.preset import resolve
from biggan.data.dataset import FILE_NAME
from biggan.errors import InputError, nearest_path
from biggan.files import write_atomically
from biggan.runs import checkpoint, rollback, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.ring import read_pins, steps_on_disk

FILE = "lineage.json"
MUST_STAY = ("model.", "init.", "data.path", "data.streams", "run.dir")
"""Keys (or beginnings of keys) a child has from its parent: its tensors and data positions mean nothing with others.
(`run.dir` has a flag of its own.)"""


@dataclass(frozen=True)
class Ancestor:
    """RUN@STEP: a checkpoint of a run."""

    run: Path
    step: int

    @property
    def checkpoint(self) -> Path:
        """Its folder."""
        return run_folder.checkpoints(self.run) / checkpoint.folder_name(self.step)


@dataclass(frozen=True)
class Lineage:
    """Where a child run comes from: `changes` are config keys with the parent's and the child's value."""

    parent: str
    step: int
    changes: dict[str, list[Any]]


def ancestor(text: str, flag: str) -> Ancestor:
    """Read `RUN@STEP`, `RUN@good` or `RUN@best`; raises InputError, which names `flag`, if there is no such one."""
    name, at, which = text.rpartition("@")
    if not at or not re.fullmatch(r"good|best|\d+", which):
        raise InputError(
            f"{flag}: '{text}'; write RUN@STEP, as in runs/a@1000, RUN@good for the last good one, or RUN@best"
        )
    run = Path(name)
    root = run_folder.checkpoints(run)
    if not (run / run_folder.CONFIG).is_file() or not root.is_dir():
        hint = nearest_path(run, (file.parent for file in run.parent.glob(f"*/{run_folder.CONFIG}")))
        raise InputError(f"{flag}: {run} is no run folder (no {run_folder.CONFIG}){hint}")
    steps = steps_on_disk(root)
    if which in ("good", "best"):
        named = read_pins(root).good if which == "good" else next(iter(checkpoint.best(root, 1)), None)
        if named is None:
            who, shown = "alarm" if which == "good" else "evaluation", ", ".join(map(str, steps)) or "none"
            mend = "" if which == "good" else " or train with evaluation.every_steps=N"
            raise InputError(
                f"{flag}: no {who} has named a {which} checkpoint of {run}; name a step, of: {shown}{mend}"
            )
        which = str(named)
    if int(which) not in steps:
        near = min(steps, key=lambda step: abs(step - int(which)), default=None)
        hint = "it has none yet" if near is None else f"nearest: {run}@{near}"
        raise InputError(f"{flag}: {run} has no checkpoint of step {which}; {hint}")
    return Ancestor(run, int(which))


def child_config(parent: Ancestor, run_dir: Path, overrides: Sequence[str]) -> Config:
    """The parent's config as of its checkpoint, with what its rollbacks had put in force, and the child's changes."""
    for override in overrides:
        if override.startswith(MUST_STAY):
            key = override.partition("=")[0]
            raise InputError(f"{key}: a child run has its parent's; leave it out (docs/interventions.md)")
    before = resolve(parent.checkpoint / run_folder.CONFIG)
    in_force = interventions.effective(before, rollback.count_in(run_folder.checkpoints(parent.run), parent.step) or 0)
    kept = [
        f"intervention.{key}={json.dumps(value)}"
        for key, value in json.loads(in_force.model_dump_json()).items()
        if value != json.loads(before.intervention.model_dump_json())[key]
    ]
    return resolve(parent.checkpoint / run_folder.CONFIG, [*kept, *overrides, f"run.dir={run_dir}"])


def continued(text: str, run_dir: Path, overrides: Sequence[str]) -> Config | None:
    """The config of the child run that is in `run_dir` already, begun from `text` (RUN@STEP); None if there is none.

    Its parent may have gone on since, and no longer have that checkpoint.
    """
    found = read(run_dir)
    if found is None or text not in {f"{found.parent}@{which}" for which in (found.step, "good", "best")}:
        return None
    return resolve(run_dir / run_folder.CONFIG, [*overrides, f"run.dir={run_dir}"])


def begin_child(parent: Ancestor, config: Config, fresh: bool) -> None:
    """Make the child's run folder, with the parent's checkpoint as its first; nothing if it is there already.

    The folder exists completely or not at all. Raises InputError if another run is there, or if `fresh` and any is.
    """
    folder = config.run.dir
    if config.training.steps <= parent.step:
        raise InputError(
            f"training.steps: {config.training.steps}, but {parent.run}@{parent.step} has done as many; "
            f"add training.steps=N with N over {parent.step}"
        )
    before = resolve(parent.checkpoint / run_folder.CONFIG)
    lineage = Lineage(str(parent.run), parent.step, changes(before, config))
    if folder.exists():
        if fresh:
            raise InputError(f"--fresh: {folder} is there already; remove it or choose another --as")
        if read(folder) != lineage:
            raise InputError(f"--as: {folder} is there, and no child of {parent.run}@{parent.step} with these changes")
        return
    saved = checkpoint.load(parent.checkpoint)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        run_folder.checkpoints(partial).mkdir(parents=True)
        state = {**saved.state, "since_step": parent.step, "rollbacks": 0}
        state.pop("statistics_images", None)  # the child's batch, or its number of processes, may be another
        checkpoint.save(
            run_folder.checkpoints(partial), parent.step, Checkpoint(saved.tensors, state, config.to_yaml())
        )
        shutil.copy(parent.run / FILE_NAME, partial / FILE_NAME)
        write_atomically(partial / run_folder.CONFIG, config.to_yaml())
        text = json.dumps({"parent": lineage.parent, "step": lineage.step, "changes": lineage.changes}, indent=1)
        write_atomically(partial / FILE, text + "\n")
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"--as: {folder}: cannot be written ({error.strerror or error})") from None


def changes(before: Config, now: Config) -> dict[str, list[Any]]:
    """Keys whose values differ, but for the run's folder: key -> [before, now]."""
    old, new = (dict(run_folder.flatten(json.loads(c.model_dump_json()))) for c in (before, now))
    return {key: [old[key], new[key]] for key in new if old[key] != new[key] and key != "run.dir"}


def read(folder: Path) -> Lineage | None:
    """The lineage of a child run; None for a run that has none."""
    file = folder / FILE
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return Lineage(found["parent"], found["step"], found["changes"])


def tags(folder: Path) -> dict[str, str]:
    """A child run's lineage as text, for whoever tracks it; empty for a run that has none."""
    found = read(folder)
    if found is None:
        return {}
    changed = {key: f"{old} -> {new}" for key, (old, new) in found.changes.items()}
    return {"parent": found.parent, "step": str(found.step), **changed}
