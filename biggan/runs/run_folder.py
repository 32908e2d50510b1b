"""The run folder: begun once, continued by the same command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biggan.config import Config
from biggan.config.preset import resolve
from biggan.data.dataset import FILE_NAME, Dataset, parse
from biggan.errors import InputError
from biggan.files import write_atomically
from biggan.runs.ring import steps_on_disk

CONFIG = "config.yaml"
LOST = "lost"
"""Folder of what processes knew when they lost the others; that can be before there is a run."""
MAY_CHANGE = (
    "run.dir",
    "data.path",
    "data.workers",
    "data.max_bad_samples",
    "data.allow_pipe",
    "training.steps",
    "training.compile",
    "training.log_every_steps",
    "checkpoint.",
    "collapse.",
    "rollback.",
    "samples.",
    "evaluation.",
    "distributed.engine",
    "distributed.zero_stage",
    "distributed.batchnorm_group_size",
    "distributed.timeout_seconds",
    "tracking.",
)
"""Keys (or beginnings of keys) a resumed run may set anew: none of them changes the path of the weights.
(The size of a BatchNorm group does, unless the number of processes changes with it: `checks.check_statistics`.)"""


def prepare(config: Config, dataset: Dataset, fresh: bool) -> None:
    """Begin the run folder or check that this run may go on in it. Called by one process."""
    folder = config.run.dir
    try:
        names = [f.name for f in folder.iterdir()] if folder.exists() else []
        there = [name for name in names if not name.endswith(".partial") and name != LOST]
        if there and fresh:
            raise InputError(f"--fresh: {folder} is not empty; remove it or choose another run.dir")
        if there and CONFIG not in there:
            raise InputError(f"run.dir: {folder} is not empty and no run folder (no {CONFIG}); choose another")
        if CONFIG in there:
            check_unchanged(resolve(folder / CONFIG), config)
            check_not_behind(folder, config.training.steps)
        if FILE_NAME in there:
            check_same_data(folder / FILE_NAME, dataset, config.data.path)
        folder.mkdir(parents=True, exist_ok=True)
        # The config first: it is what makes the folder a run's, wherever this is interrupted.
        write_atomically(folder / CONFIG, config.to_yaml())
        write_atomically(folder / FILE_NAME, dataset.to_json())
        checkpoints(folder).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"run.dir: {folder}: cannot be written ({error.strerror or error})") from None


def precision(folder: Path) -> str | None:
    """`training.precision` of the run in `folder`; None if there is none, or it is not settled. Raises InputError."""
    if not (folder / CONFIG).is_file():
        return None
    found = resolve(folder / CONFIG).training.precision
    return None if found == "auto" else found


def check_unchanged(before: Config, now: Config) -> None:
    """Raise InputError if `now` would take the weights along another path than `before`."""
    old, new = (dict(flatten(json.loads(c.model_dump_json()))) for c in (before, now))
    for key, value in new.items():
        if old[key] != value and not key.startswith(MAY_CHANGE):
            now_is, was = ("none" if v == "" else v for v in (value, old[key]))
            raise InputError(
                f"{key}: {now_is}, but the run in {before.run.dir} has {was}; "
                f"go on {'without it' if old[key] == '' else f'with {key}={was}'}, or choose another run.dir"
            )


def check_not_behind(folder: Path, steps: int) -> None:
    """Raise InputError if the run has gone further than `steps`: its config would not say how far."""
    done = steps_on_disk(checkpoints(folder)) if has_begun(folder) else [0]
    if done[-1] > steps:
        raise InputError(f"training.steps: {steps}, but the run in {folder} is at step {done[-1]}; use at least that")


def check_same_data(file: Path, now: Dataset, path: str) -> None:
    """Raise InputError if the run was trained on other shards: its data positions would mean something else."""
    before = parse(file.read_text(encoding="utf-8"), str(file))
    if before.classes != now.classes or before.splits["train"] != now.splits["train"]:
        raise InputError(
            f"data.path: {path} is not the data set of the run in {file.parent} (other shards or classes); "
            f"give that one's path, or choose another run.dir"
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def has_begun(folder: Path) -> bool:
    """Whether a run has checkpoints, whole or not: what it began as is in them."""
    return checkpoints(folder).is_dir() and bool(steps_on_disk(checkpoints(folder)))


def checkpoints(folder: Path) -> Path:
    """Where a run's checkpoints are."""
    return folder / "checkpoints"
