"""A run on one process of many, from its config to its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from rich.console import Console

from biggan import build
from biggan.config import Config
from biggan.data.dataset import Dataset, check_trainable
from biggan.data.loader import read_dataset
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.lost import naming_lost_processes
from biggan.distributed.process import Process, join
from biggan.errors import InputError, LostProcesses, StoppedRun
from biggan.tracking import Tracker
from biggan.training import checkpoint, run_folder
from biggan.training.checkpoint import Writer
from biggan.training.loop import Loop
from biggan.training.metrics import Metrics
from biggan.training.report import Report
from biggan.training.state import TrainingState


def train(config: Config, fresh: bool) -> None:
    """Begin the run, or go on with it, together with the other processes; `fresh` refuses to go on.

    Raises the StoppedRun that ended it before its last step, on every process.
    """
    with join(config.distributed.timeout_seconds) as process:
        try:
            with naming_lost_processes(process, config.run.dir / run_folder.LOST):
                loop = begun(config, fresh, process)
            # Inside the report, which takes its time to close: the others wait for a word only for seconds.
            with loop.report or nullcontext(), naming_lost_processes(process, config.run.dir / run_folder.LOST):
                loop.run()
        except LostProcesses:
            raise
        except StoppedRun as error:  # on all processes: one of each machine says it
            error.said = error.said or not process.is_first_of_host
            with suppress(RuntimeError):  # of a process that is killed meanwhile: this is why the others end
                process.barrier()  # rank 0 may still be closing its files; torchrun ends all when the first one ends
            raise


def begun(config: Config, fresh: bool, process: Process) -> Loop:
    """The run's folder begun, or found fit to go on in, and the loop; raises InputError on every process."""
    process.together(lambda: check_same_config(config, process))
    process.together(lambda: build.check_engine(config, process))
    dataset, warnings = process.together(lambda: trainable_dataset(config))
    process.together(lambda: run_folder.prepare(config, dataset, fresh) if process.is_main else None)
    notes = [*(f"warning: {warning}" for warning in warnings), *config.notes()]
    return prepared(config, dataset, process, notes)


def check_same_config(config: Config, process: Process) -> None:
    """Raise InputError, on every process, unless all were started with one config. Collective."""
    first, *others = process.gather(dict(run_folder.flatten(json.loads(config.model_dump_json()))))
    for rank, other in enumerate(others, 1):
        for key in sorted(first.keys() | other.keys()):
            values = [tree.get(key, "no such key") for tree in (first, other)]
            if values[0] != values[1]:
                raise InputError(
                    f"{key}: {values[0]} on rank 0 ({process.hosts[0]}), {values[1]} on rank {rank} "
                    f"({process.hosts[rank]}); start every process with the same config"
                )


def trainable_dataset(config: Config) -> tuple[Dataset, list[str]]:
    """The data set, fit for the networks, and what to warn of."""
    dataset = read_dataset(config.data.path, config.data.allow_pipe)
    m = config.model
    return dataset, check_trainable(dataset, classes=m.classes, resolution=m.resolution, streams=config.data.streams)


def prepared(config: Config, dataset: Dataset, process: Process, notes: list[str]) -> Loop:
    """The loop, in the state of the newest checkpoint; `notes` is what rank 0 says first."""
    root = run_folder.checkpoints(config.run.dir)
    newest = process.gather(newest_checkpoint(root, notes.append) if process.is_main else None)[0]
    guard = FiniteGuard(process.device)
    state = TrainingState(build.gan(config, process, guard), build.statistics_images(config, process.world_size))
    cursors = build.first_cursors(config)
    if newest is not None:
        saved = process.together(lambda: checkpoint.read(newest))
        if "statistics_images" in saved.state:  # older checkpoints do not say
            build.check_statistics(config, process.world_size, saved.state["statistics_images"])
        cursors = state.restore(saved)
        notes.append(f"going on from {newest}")
    notes.append(
        f"training {config.run.dir}: {dataset.splits['train'].images} images of {len(dataset.classes)} classes, "
        f"{process.world_size} process(es) on {process.device.type}, step {state.step} of {config.training.steps}"
    )
    # Its readers are forked before the report starts threads.
    loader = build.loader(config, dataset, process, cursors)
    return Loop(
        config=config,
        process=process,
        state=state,
        loader=loader,
        latents=build.latents(config, process),
        recipe=build.recipe(config, process),
        guard=guard,
        classes=dataset.classes,
        report=new_report(config, state.step, notes) if process.is_main else None,
    )


def newest_checkpoint(root: Path, on_damaged: Callable[[str], object]) -> Path | None:
    """The checkpoint to go on from; what damaged or interrupted ones left is moved out of its way."""
    checkpoint.clean_up(root)
    newest = checkpoint.newest_whole(root, on_damaged)
    checkpoint.set_aside_after(root, -1 if newest is None else checkpoint.step_of(newest))
    return newest


def new_report(config: Config, step: int, notes: list[str]) -> Report:
    """Rank 0's report of a run that goes on after G step `step`, with `notes` said."""
    console = Console(stderr=True)

    def say(message: str) -> None:
        console.print(message, highlight=False, markup=False, soft_wrap=True)

    for note in notes:
        say(note)
    folder, keep = config.run.dir, config.checkpoint
    tracker = None
    if config.tracking.mlflow:
        tracker = Tracker(folder, config.tracking.experiment, say)
        tracker.log_parameters(dict(run_folder.flatten(json.loads(config.model_dump_json()))))
        tracker.log_file(folder / run_folder.CONFIG)
    return Report(
        folder,
        console,
        Metrics(folder / "metrics.jsonl", step),
        Writer(run_folder.checkpoints(folder), keep.keep_last, keep.keep_every_steps),
        tracker,
        config.training.steps,
    )
