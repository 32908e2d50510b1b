"""Child runs: runs that start from a checkpoint of another run and record it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from biggan.config import Config, interventions
from biggan.config.preset import flat, resolve, resolve_tree
from biggan.data.dataset import FILE_NAME
from biggan.errors import InputError, nearest_path
from biggan.files import write_atomically
from biggan.folder_lock import LOCK, FolderLock
from biggan.json_file import Count, read_if_present
from biggan.runs import checkpoint, rollback, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.ring import read_pins, steps_on_disk

FILE = "lineage.json"
INHERITED_KEYS = ("model.", "init.", "data.path", "data.streams", "data.shuffle_buffer", "run.dir")
"""Keys, or prefixes of keys, that a child run inherits: the parent's tensors and data positions are valid only with
them. (`run.dir` is set by a flag of its own. `run.seed` may change, because `_child_state` keeps the data order.)"""


@dataclass(frozen=True)
class Ancestor:
    """Checkpoint of a run, written RUN@STEP."""

    run: Path
    step: int

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return run_folder.checkpoints(self.run) / checkpoint.folder_name(self.step)


@dataclass(frozen=True)
class Lineage:
    """Origin of a child run; `changes` maps config keys to the parent's and the child's value."""

    parent: str
    step: Count
    changes: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]]

    @property
    def changes_loss(self) -> bool:
        """True if the child has another loss than the parent."""
        _, intervention = self.changes.get(interventions.SECTION, [{}, {}])
        return any(key in self.changes or key in intervention for key in ("objective.loss", "extension.loss"))


def find_ancestor(text: str, flag: str) -> Ancestor:
    """Find the checkpoint `RUN@STEP`, `RUN@good` or `RUN@best`; raises InputError with `flag` if there is none."""
    name, at, which = text.rpartition("@")
    if not at or not re.fullmatch(r"good|best|\d+", which):
        raise InputError(f"{flag}: '{text}'; write RUN@STEP (for example runs/a@1000), RUN@good or RUN@best")
    run = Path(name)
    root = run_folder.checkpoints(run)
    if not (run / run_folder.CONFIG).is_file() or not root.is_dir():
        hint = nearest_path(run, (file.parent for file in run.parent.glob(f"*/{run_folder.CONFIG}")))
        raise InputError(f"{flag}: {run} is not a run folder (no {run_folder.CONFIG}){hint}")
    steps = steps_on_disk(root)
    if which in ("good", "best"):
        named = read_pins(root).good if which == "good" else next(iter(checkpoint.best(root, 1)), None)
        if named is None:
            reason = "no alarm" if which == "good" else "no evaluation"
            steps_text = ", ".join(map(str, steps)) or "none"
            hint = "" if which == "good" else ", or train with evaluation.every_steps=N"
            raise InputError(
                f"{flag}: {run} has no {which} checkpoint ({reason} yet); give a step, one of {steps_text}{hint}"
            )
        which = str(named)
    if int(which) not in steps:
        near = min(steps, key=lambda step: abs(step - int(which)), default=None)
        hint = "it has none yet" if near is None else f"nearest: {run}@{near}"
        raise InputError(f"{flag}: {run} has no checkpoint of step {which}; {hint}")
    return Ancestor(run, int(which))


def child_config(parent: Ancestor, run_dir: Path, overrides: Sequence[str]) -> Config:
    """Return the child's config: the parent's as of the checkpoint, the interventions in force, and `overrides`."""
    for override in overrides:
        if override.startswith(INHERITED_KEYS):
            key = override.partition("=")[0]
            raise InputError(f"{key}: a child run inherits it from its parent; remove it (docs/collapse.md)")
    before = resolve(parent.checkpoint / run_folder.CONFIG)
    rollbacks = rollback.rollback_count(run_folder.checkpoints(parent.run), parent.step) or 0
    tree = json.loads(interventions.in_force(before, rollbacks).model_dump_json())
    # The child's values are those in force, but a freeze counts from a start that is not the child's.
    tree["training"].update(dict.fromkeys(interventions.FREEZES, 0))
    tree["rollback"] = before.rollback.model_dump()
    return resolve_tree(tree, [*factors_as_changes(overrides), f"run.dir={run_dir}"])


def existing_child_config(text: str, run_dir: Path, overrides: Sequence[str]) -> Config | None:
    """Return the config of the existing child run in `run_dir` that started from `text` (RUN@STEP); None without one.

    The parent may have continued since then, and may no longer have that checkpoint.
    """
    lineage = read(run_dir)
    if lineage is None or text not in {f"{lineage.parent}@{which}" for which in (lineage.step, "good", "best")}:
        return None
    return resolve(run_dir / run_folder.CONFIG, [*factors_as_changes(overrides), f"run.dir={run_dir}"])


def factors_as_changes(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `KEY=x0.5` as `intervention.KEY=x0.5`: a factor of the value that the parent had."""
    return [
        f"{interventions.SECTION}.{override}" if interventions.is_factor(override) else override
        for override in overrides
    ]


def create_child(parent: Ancestor, config: Config, fresh: bool) -> None:
    """Create the child's run folder, with the parent's checkpoint as its first; do nothing if it exists already.

    The folder exists completely or not at all. Raises InputError if the folder holds another run, or any run if
    `fresh`, and if the parent's checkpoint leaves no step to train.
    """
    folder = config.run.dir
    partial = folder.with_name(f".{folder.name}.partial")
    if config.training.steps <= parent.step:
        raise InputError(
            f"training.steps: {config.training.steps}, but {parent.run}@{parent.step} leaves no step to train; "
            f"add training.steps=N with N above {parent.step}"
        )
    before = resolve(parent.checkpoint / run_folder.CONFIG)
    lineage = Lineage(str(parent.run), parent.step, changes(before, config))
    if not folder.exists():
        with FolderLock(partial, "--as"):
            if not folder.exists():  # another process may have owned it until now
                _write_child(parent, config, lineage, partial)
                return
    if fresh:
        raise InputError(f"--fresh: {folder} exists already; remove it or choose another --as")
    if read(folder) != lineage:
        raise InputError(
            f"--as: {folder} exists and is not a child of {parent.run}@{parent.step} with these changes; "
            f"choose another folder"
        )


def _write_child(parent: Ancestor, config: Config, lineage: Lineage, partial: Path) -> None:
    """Write the child's run folder to `partial`, beside its place, and rename it."""
    folder = config.run.dir
    saved = checkpoint.load(parent.checkpoint)
    try:
        for leftover in partial.iterdir():
            if leftover.name != LOCK:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        run_folder.checkpoints(partial).mkdir(parents=True)
        contents = Checkpoint(saved.tensors, _child_state(parent, saved), config.to_yaml())
        checkpoint.save(run_folder.checkpoints(partial), parent.step, contents)
        shutil.copy(parent.run / FILE_NAME, partial / FILE_NAME)
        write_atomically(partial / run_folder.CONFIG, config.to_yaml())
        text = json.dumps({"parent": lineage.parent, "step": lineage.step, "changes": lineage.changes}, indent=1)
        write_atomically(partial / FILE, text + "\n")
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"--as: {folder}: cannot be written ({error.strerror or error}); choose another --as"
        ) from None


def _child_state(parent: Ancestor, saved: Checkpoint) -> dict[str, Any]:
    """Return the state that a child starts from: the parent's, with its data order, and no rollback.

    The position of a stream has a meaning only in its own order of shards and samples, so the child keeps the
    parent's seed of the data, also the one after rollbacks.
    """
    seed, rollbacks = saved.state.get("data_seed"), saved.state.get("rollbacks", 0)
    seed = resolve(parent.checkpoint / run_folder.CONFIG).run.seed if seed is None else seed
    state = {**saved.state, "since_step": parent.step, "rollbacks": 0}
    state.pop("statistics_images", None)  # the child may have another batch size or number of processes
    return state | {"data_seed": interventions.trajectory_seed(seed, rollbacks)}


def changes(before: Config, now: Config) -> dict[str, list[Any]]:
    """Return the keys whose values differ, except `run.dir`: key -> [before, now]."""
    old, new = flat(before), flat(now)
    return {key: [old[key], new[key]] for key in new if old[key] != new[key] and key != "run.dir"}


def read(folder: Path) -> Lineage | None:
    """Return the lineage of a child run; None for other runs."""
    fix = "restore it, or choose another run.dir"
    return read_if_present(folder / FILE, Lineage, fix, error=InputError)


def describe(folder: Path) -> list[str]:
    """Return one line on the origin of a child run and what it changes; nothing for other runs."""
    lineage = read(folder)
    if lineage is None:
        return []
    changed = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in lineage.changes.items())
    return [f"child of {lineage.parent}@{lineage.step}: {changed or 'nothing changed'}"]


def tags(folder: Path) -> dict[str, str]:
    """Return a child run's lineage as text, for experiment tracking; empty for other runs."""
    lineage = read(folder)
    if lineage is None:
        return {}
    changed = {key: f"{old} -> {new}" for key, (old, new) in lineage.changes.items()}
    return {"parent": lineage.parent, "step": str(lineage.step), **changed}
