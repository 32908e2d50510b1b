"""A run on one process of many, from its config to its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from biggan.config import Config, interventions
from biggan.data.dataset import Dataset, check_trainable
from biggan.data.stream import Cursor, read_dataset
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.peer_failure import naming_lost_processes, said_once
from biggan.distributed.process import Process, has_bfloat16, join
from biggan.errors import InputError
from biggan.finetuning.plan import FineTuningPlan, plan
from biggan.finetuning.trained_networks import locate
from biggan.progress import Meter, silent
from biggan.runs import checkpoint, lineage, rollback, run_folder
from biggan.runs.checkpoint import Writer
from biggan.runs.lineage import Ancestor
from biggan.runs.metrics import Metrics
from biggan.startup import build
from biggan.tracking import Tracker
from biggan.training.loop import Loop
from biggan.training.run_logger import RunLogger
from biggan.training.state import TrainingState
from biggan.training.trajectory import Trajectory

if TYPE_CHECKING:
    from biggan.evaluation.evaluate import Evaluator


def train(config: Config, fresh: bool, parent: Ancestor | None = None) -> None:
    """Begin the run, or go on with it, together with the other processes; `fresh` refuses to go on.

    With a `parent`, the run is a child that begins there.

    Raises the StoppedRun that ended it before its last step, on every process.
    """
    with join(config.distributed.timeout_seconds) as process, said_once(process):
        with naming_lost_processes(process, config.run.dir / run_folder.LOST):
            loop = begun(config, fresh, parent, process)
        # Inside the report, which takes its time to close: the others wait for a word only for seconds.
        with loop.report or nullcontext(), naming_lost_processes(process, config.run.dir / run_folder.LOST):
            loop.run()


def begun(config: Config, fresh: bool, parent: Ancestor | None, process: Process) -> Loop:
    """The run's folder begun, or found fit to go on in, and the loop; raises InputError on every process."""
    process.together(lambda: check_same_config(config, process))
    config, precision_notes = settled(config, process)
    process.together(lambda: build.check_engine(config, process))
    process.together(lambda: build.check_interventions(config))
    process.together(lambda: build.check_checkpoint_limit(config))
    dataset, warnings = process.together(lambda: trainable_dataset(config))
    if parent is not None:
        process.together(lambda: lineage.begin_child(parent, config, fresh) if process.is_main else None)
    fresh = fresh and parent is None
    notes: list[str] = []
    # Before the folder: what cannot begin leaves none behind.
    goes_on = process.any(run_folder.has_begun(config.run.dir))
    beginning = None if goes_on else planned(config, dataset, process, notes)
    process.together(lambda: run_folder.prepare(config, dataset, fresh) if process.is_main else None)
    warnings += [*precision_notes, *interventions.warnings(config)]
    notes += [*(f"warning: {w}" for w in warnings), *config.notes()]
    return prepared(config, dataset, process, notes, beginning)


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


def settled(config: Config, process: Process) -> tuple[Config, list[str]]:
    """The config with the precision that `auto` stands for, the run's own if there is one, and what to warn of.

    Collective; raises InputError.
    """
    in_hardware = all(process.gather(has_bfloat16(process.device)))
    begun_in = process.together(lambda: run_folder.precision(config.run.dir) if process.is_main else None)
    begun_in = process.gather(begun_in)[0]
    config = config.settled(in_hardware if begun_in is None else begun_in == "bfloat16")
    if config.training.precision == "float32" or in_hardware:
        return config, []
    advice = "the run began so" if begun_in else "training.precision=float32 or auto is several times faster"
    return config, [f"training.precision: bfloat16, which not every process has in hardware; {advice}"]


def trainable_dataset(config: Config) -> tuple[Dataset, list[str]]:
    """The data set, fit for the networks, and what to warn of."""
    dataset = read_dataset(config.data.path, config.data.allow_pipe)
    m = config.model
    return dataset, check_trainable(
        dataset,
        classes=m.classes,
        resolution=m.resolution,
        image_channels=m.image_channels,
        streams=config.data.streams,
    )


def planned(config: Config, dataset: Dataset, process: Process, notes: list[str]) -> FineTuningPlan | None:
    """What a run that begins takes from elsewhere; None if nothing. Collective; raises InputError."""
    path = config.init.source
    if not path:
        return None
    # One process looks for it: a run that is being trained has a new newest checkpoint any moment.
    found = process.together(lambda: locate(path, notes.append) if process.is_main else Path())
    folder = process.gather(found)[0]
    return process.together(lambda: plan(config, dataset.classes, folder))


def prepared(
    config: Config, dataset: Dataset, process: Process, notes: list[str], beginning: FineTuningPlan | None
) -> Loop:
    """The loop, in the state of the newest checkpoint, without one in that of `beginning`; `notes` is what rank 0 says
    first."""
    folder, root = config.run.dir, run_folder.checkpoints(config.run.dir)
    newest = process.gather(newest_checkpoint(folder, root, notes.append) if process.is_main else None)[0]
    guard = FiniteGuard(process.device)
    gan = build.gan(config, process, guard)
    if newest is None and (beginning := beginning or planned(config, dataset, process, notes)):
        beginning.begin(gan)
        notes += beginning.lines()
        process.together(lambda: beginning.write(folder) if process.is_main else None)
    state = TrainingState(
        gan, build.monitor(config, dataset, gan, process), build.statistics_images(config, process.world_size)
    )
    cursors = build.first_cursors(config) if newest is None else restored(state, newest, config, process)
    notes += [] if newest is None else [f"going on from {newest}"]
    state.begin_again(process.gather(rollback.read(folder) if process.is_main else None)[0])
    notes.append(
        f"training {folder}: {dataset.splits['train'].images} images of {len(dataset.classes)} classes, "
        f"{process.world_size} process(es) on {process.device.type}, step {state.step} of {config.training.steps}"
    )

    evaluator = opened_evaluator(config, dataset, process)

    def new_course(state: TrainingState, cursors: list[Cursor]) -> Trajectory:
        return build.course(config, dataset, process, state, cursors)

    # The readers in it are forked before the report starts threads.
    course = new_course(state, cursors)
    report = new_report(config, state.step, notes) if process.is_main else None
    if evaluator is not None and report is not None:
        evaluator.tick = report.tick
    return Loop(
        config=config,
        process=process,
        state=state,
        course=course,
        new_course=new_course,
        guard=guard,
        classes=dataset.classes,
        evaluate=evaluator,
        report=report,
        saved_step=-1 if newest is None else state.step,
    )


def restored(state: TrainingState, newest: Path, config: Config, process: Process) -> list[Cursor]:
    """The streams' positions, once `state` is that of the checkpoint `newest`. Collective; raises StoppedRun."""
    saved = process.together(lambda: checkpoint.read(newest))
    if "statistics_images" in saved.state:  # older checkpoints do not say
        build.check_statistics(config, process.world_size, saved.state["statistics_images"])
    return state.restore(saved)


def opened_evaluator(config: Config, dataset: Dataset, process: Process) -> Evaluator | None:
    """What measures the run; None if nothing is to. Collective; raises InputError."""
    if not config.evaluation.every_steps:
        return None
    # torchvision and pytorch-fid take a second to import, which most runs need not spend.
    from biggan.evaluation.in_training import new_evaluator  # noqa: PLC0415

    with Meter() as meter:
        return new_evaluator(config, dataset, process, meter if process.is_main else silent)


def newest_checkpoint(run_dir: Path, root: Path, on_damaged: Callable[[str], object]) -> Path | None:
    """The checkpoint to go on from; what damaged or interrupted ones left is moved out of its way."""
    checkpoint.clean_up(root)
    rollback.finish(run_dir, root)
    newest = checkpoint.newest_whole(root, on_damaged)
    checkpoint.set_aside_after(root, -1 if newest is None else checkpoint.step_of(newest))
    return newest


def new_report(config: Config, step: int, notes: list[str]) -> RunLogger:
    """Rank 0's report of a run that goes on after G step `step`, with `notes` said."""
    console = Console(stderr=True)

    def say(message: str) -> None:
        console.print(message, highlight=False, markup=False, soft_wrap=True)

    for note in notes:
        say(note)
    folder = config.run.dir
    tracker = None
    if config.tracking.mlflow:
        tracker = Tracker(folder, config.tracking.experiment, say, lineage.tags(folder))
        tracker.log_parameters(dict(run_folder.flatten(json.loads(config.model_dump_json()))))
        tracker.log_file(folder / run_folder.CONFIG)
    return RunLogger(
        folder,
        console,
        Metrics(folder / "metrics.jsonl", step),
        Writer(run_folder.checkpoints(folder), build.ring(config), say),
        tracker,
        config.training.steps,
        config.training.log_every_steps,
    )
