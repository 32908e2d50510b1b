"""The run folder: created once, resumed by the same command."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict
from typing_extensions import TypedDict

from biggan.config import Config
from biggan.config.preset import flat, resolve
from biggan.data.dataset import FILE_NAME, Dataset, described
from biggan.errors import InputError
from biggan.files import MISSING, read_bytes, write_atomically
from biggan.folder_lock import LOCK
from biggan.json_file import Count, read_if_present
from biggan.runs.metrics import last_step
from biggan.runs.ring import steps_on_disk

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
STARTED = "first_checkpoint.json"
"""File with the step of the run's first complete checkpoint; null before it. It stays when `checkpoints/` is lost."""
LOST = "lost"
"""Folder for the reports of processes that lost contact with the others; it may exist before the run does."""
CHANGEABLE_KEYS = (
    "run.dir",
    "data.path",
    "data.workers",
    "data.max_bad_samples",
    "data.allow_pipe",
    "data.allow_outside",
    "training.steps",
    "training.compile",
    "training.log_every_steps",
    "checkpoint.",
    "collapse.",
    "rollback",
    "samples.",
    "evaluation.",
    "distributed.engine",
    "distributed.zero_stage",
    "distributed.batchnorm_group_size",
    "distributed.timeout_seconds",
    "tracking.",
)
"""Keys, or prefixes of keys, that a resumed run may change: none of them changes the training trajectory.
(`distributed.batchnorm_group_size` does, unless the number of processes changes with it; `checks.check_statistics`
checks that.)"""


class Started(TypedDict):
    """The contents of `first_checkpoint.json`."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    step: Count | None


def prepare(config: Config, dataset: Dataset, fresh: bool) -> None:
    """Create the run folder, or check that the config may resume the run in it. Call it on one process.

    Raises InputError, which names the key, if the run cannot be started or resumed.
    """
    folder = config.run.dir
    try:
        names = [f.name for f in folder.iterdir()] if folder.exists() else []
        existing = [name for name in names if not name.endswith(".partial") and name not in (LOST, LOCK)]
        if existing and fresh:
            raise InputError(f"--fresh: {folder} is not empty; remove it or choose another run.dir")
        if existing and CONFIG not in existing:
            raise InputError(
                f"run.dir: {folder} is not empty and is not a run folder (no {CONFIG}); choose another run.dir"
            )
        if CONFIG in existing:
            check_unchanged(resolve(folder / CONFIG), config)
            check_checkpoints_present(folder)
            check_steps_not_passed(folder, config.training.steps)
            check_same_data(folder, dataset, config.data.path)
        folder.mkdir(parents=True, exist_ok=True)
        # Write the config first: it marks the folder as a run folder even if this is interrupted.
        write_atomically(folder / CONFIG, config.to_yaml())
        write_atomically(folder / FILE_NAME, dataset.to_json())
        if not (folder / STARTED).exists() and not has_checkpoints(folder):
            write_atomically(folder / STARTED, json.dumps({"step": None}) + "\n")
        checkpoints(folder).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"run.dir: {folder}: cannot be written ({error.strerror or error}); choose another run.dir"
        ) from None


def precision(folder: Path) -> str | None:
    """Return `training.precision` of the run in `folder`; None without a run or if it is `auto`. Raises InputError."""
    if not (folder / CONFIG).is_file():
        return None
    saved = resolve(folder / CONFIG).training.precision
    return None if saved == "auto" else saved


def check_unchanged(before: Config, now: Config) -> None:
    """Raise InputError if `now` differs from `before` in a key that changes the training trajectory."""
    old, new = flat(before), flat(now)
    for key, value in new.items():
        if old[key] != value and not key.startswith(CHANGEABLE_KEYS):
            new_text, old_text = ("none" if v == "" else v for v in (value, old[key]))
            fix = "resume without it" if old[key] == "" else f"resume with {key}={old_text}"
            raise InputError(
                f"{key}: {new_text}, but the run in {before.run.dir} has {old_text}; {fix}, or choose another run.dir"
            )


def check_steps_not_passed(folder: Path, steps: int) -> None:
    """Raise InputError if the run is already past `steps`: its config would then give a wrong number of steps."""
    done = steps_on_disk(checkpoints(folder)) if has_checkpoints(folder) else [0]
    if done[-1] > steps:
        raise InputError(
            f"training.steps: {steps}, but the run in {folder} is at step {done[-1]}; use {done[-1]} or more"
        )


def check_checkpoints_present(folder: Path) -> None:
    """Raise InputError if the run has had checkpoints and has none now: it would start again at step 0."""
    evidence = None if has_checkpoints(folder) else evidence_of_checkpoints(folder)
    if evidence is not None:
        raise InputError(
            f"run.dir: {folder}: its checkpoints are gone: {checkpoints(folder)} has none, but {evidence}; mount or "
            f"restore that folder; to start anew instead, choose another run.dir or move {folder} away"
        )


def evidence_of_checkpoints(folder: Path) -> str | None:
    """Return the reason to believe that the run has had a checkpoint; None without one."""
    started = read_started(folder)
    if started is not None and started["step"] is not None:
        return f"{STARTED} names one of step {started['step']}"
    if (folder / "lineage.json").exists():
        return "lineage.json shows that it began with one"
    if checkpoints(folder).is_dir() and any(checkpoints(folder).glob("step_*")):
        return "others have been set aside there"
    last = last_step(folder / METRICS)  # without the record, of an earlier version: it may have had any
    return f"{METRICS} reaches step {last}" if started is None and last else None


def read_started(folder: Path) -> Started | None:
    """Return the record of the run's first checkpoint; None without it. Raises InputError if it is damaged."""
    return read_if_present(folder / STARTED, Started, "restore it, or choose another run.dir", error=InputError)


def record_first_checkpoint(folder: Path, step: int) -> None:
    """Record that a run has a complete checkpoint, unless that is recorded."""
    started = read_started(folder)
    if started is None or started["step"] is None:
        write_atomically(folder / STARTED, json.dumps({"step": step}) + "\n")


def check_same_data(folder: Path, now: Dataset, path: str) -> None:
    """Raise InputError if the run in `folder` was trained on other shards, for which its data positions are not valid,
    or if its record of them is gone.
    """
    before = read_dataset_record(folder)
    if before is None and read_started(folder) is not None:
        raise InputError(
            f"{folder / FILE_NAME}: is gone, and with it which data this run is trained on; restore it, "
            f"or choose another run.dir"
        )
    if before is not None and (before.classes, before.splits) != (now.classes, now.splits):
        raise InputError(
            f"data.path: {path} is not the data set of the run in {folder} (other shards or classes); "
            f"set data.path to the data set of that run, or choose another run.dir"
        )


def read_dataset_record(folder: Path) -> Dataset | None:
    """Return the run's copy of the `dataset.json` that it is trained on; None without it. Raises InputError."""
    file = folder / FILE_NAME
    try:
        return described(lambda: read_bytes(file), str(file), "restore it, or choose another run.dir")
    except MISSING:
        return None


def has_checkpoints(folder: Path) -> bool:
    """Return True if the run has checkpoints, complete or not."""
    return checkpoints(folder).is_dir() and bool(steps_on_disk(checkpoints(folder)))


def checkpoints(folder: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return folder / "checkpoints"
