"""A run in this process, from its config to its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from biggan.config import Config, interventions
from biggan.data.dataset import Dataset
from biggan.data.stream import Cursor
from biggan.data.verification import verified
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.peer_failure import naming_lost_processes, reported_once
from biggan.distributed.process import Process, join
from biggan.errors import CheckpointError
from biggan.finetuning.plan import FineTuningPlan, plan
from biggan.finetuning.trained_networks import locate
from biggan.folder_lock import FolderLock
from biggan.progress import Meter, silent
from biggan.runs import checkpoint, lineage, rollback, run_folder
from biggan.runs.lineage import Ancestor
from biggan.runs.ring import read_pins
from biggan.runs.state_file import check_restorable
from biggan.startup import build, checks, outside_code
from biggan.startup.open_log import open_logger
from biggan.startup.outside_code import Extension
from biggan.training.last_finite import LastFinite
from biggan.training.loop import Loop
from biggan.training.session import Session
from biggan.training.state import TrainingState
from biggan.training.trajectory import Trajectory

if TYPE_CHECKING:
    from biggan.evaluation.evaluate import Evaluator


def train(config: Config, fresh: bool, parent: Ancestor | None = None, allow_code: bool = False) -> None:
    """Start or resume the run of `config`, together with the other processes.

    `fresh` refuses to resume. With a `parent`, the run is a child that starts from that checkpoint. `allow_code`
    permits importing the parts that `config.extension` names.

    Raises the StoppedRun that ended the run before its last step, on every process.
    """
    with (
        join(config.distributed.timeout_seconds, config.data.streams) as process,
        reported_once(process),
        ExitStack() as held,
    ):
        lost = config.run.dir / run_folder.LOST
        with naming_lost_processes(process, lost):
            loop = prepare_session(config, fresh, parent, allow_code, process, held)
        # `naming_lost_processes` is the inner context, so that a failure is reported before the logger closes: closing
        # can be slow, and the other processes wait only seconds for the report.
        with loop.session.logger or nullcontext(), naming_lost_processes(process, lost):
            loop.run()


def prepare_session(
    config: Config, fresh: bool, parent: Ancestor | None, allow_code: bool, process: Process, held: ExitStack
) -> Loop:
    """Take a run from its config to its loop; raise InputError, on every process, if it cannot start.

    Checks come first, then the run folder, then the networks: bad input leaves no folder behind. Rank 0 owns the run
    folder until `held` is closed. Collective.
    """
    notes: list[str] = []
    config = checked_config(config, process, notes)
    extension = outside_code.load(config, allow_code, process)
    dataset = checked_dataset(config, process, notes)
    create_child(parent, config, fresh, process)
    transfer = planned_transfer(config, dataset, process, notes)
    own_folder(config, process, held, notes)
    prepare_run_folder(config, dataset, fresh and parent is None, process)
    record_extension(config, extension, process, notes)
    found = process.together(lambda: newest_checkpoint(config.run.dir, notes.append) if process.is_main else None)
    newest = process.gather(found)[0]

    guard = FiniteGuard(process.device)
    state = initial_state(config, dataset, process, guard, extension)
    if newest is None:
        cursors = build.first_cursors(config)
        start_from(transfer, state, config, process, notes)
    else:
        cursors = restored(state, newest, config, process)
        notes.append(f"resuming from {newest}")
    state.apply_rollback(process.gather(rollback.read(config.run.dir) if process.is_main else None)[0])
    notes.append(summary(config, dataset, process, state))
    notes += process.gather(lineage.describe(config.run.dir) if process.is_main else [])[0]

    evaluator = opened_evaluator(config, dataset, process)
    session = opened_session(config, dataset, process, state, cursors, guard, notes)
    session.saved_step = -1 if newest is None else state.step
    if evaluator is not None and session.logger is not None:
        evaluator.tick = session.logger.tick
    return Loop(session, evaluator)


def opened_session(
    config: Config,
    dataset: Dataset,
    process: Process,
    state: TrainingState,
    cursors: list[Cursor],
    guard: FiniteGuard,
    notes: list[str],
) -> Session:
    """Return the session of a run that continues from `state` and `cursors`, and print `notes`."""

    def new_trajectory(state: TrainingState, cursors: list[Cursor]) -> Trajectory:
        return build.trajectory(config, dataset, process, state, cursors)

    # Build the loader before the logger: the loader forks its readers, and the logger starts threads.
    trajectory = new_trajectory(state, cursors)
    return Session(
        config=config,
        process=process,
        state=state,
        trajectory=trajectory,
        new_trajectory=new_trajectory,
        guard=guard,
        classes=dataset.classes,
        logger=open_logger(config, state.step, notes) if process.is_main else None,
        last_finite=LastFinite(state.gan),
    )


def checked_config(config: Config, process: Process, notes: list[str]) -> Config:
    """Return the config with its precision settled, after every check that needs no data. Collective."""
    process.together(lambda: checks.check_same_config(config, process))
    config, warnings = checks.settle_precision(config, process)
    process.together(lambda: checks.check_engine(config, process))
    process.together(lambda: checks.check_interventions(config))
    process.together(lambda: checks.check_checkpoint_limit(config))
    notes += [*(f"warning: {w}" for w in (*warnings, *interventions.warnings(config))), *config.notes()]
    return config


def checked_dataset(config: Config, process: Process, notes: list[str]) -> Dataset:
    """Return the data set, after checking that the networks can train on it and that its shards are intact.

    Collective.
    """
    dataset, warnings = process.together(lambda: checks.trainable_dataset(config))
    of_run = process.together(lambda: run_folder.read_dataset_record(config.run.dir))
    known = {*dataset.verified, *(() if of_run is None else of_run.verified)}
    with Meter() as meter:
        dataset = verified(config.data.path, dataset, known, process, meter if process.is_main else silent)
    if read := len(set(dataset.verified) - known):
        notes.append(
            f"data.path: the checksums of {read} shards, copied or changed since they were last read, are right; "
            f"`biggan data {config.data.path} --verify` records that for other runs"
        )
    notes += [f"warning: {w}" for w in warnings]
    return dataset


def create_child(parent: Ancestor | None, config: Config, fresh: bool, process: Process) -> None:
    """Create the run folder of a child run, with the parent's checkpoint as its first. Collective."""
    if parent is not None:
        process.together(lambda: lineage.create_child(parent, config, fresh) if process.is_main else None)


def planned_transfer(
    config: Config, dataset: Dataset, process: Process, notes: list[str]
) -> FineTuningPlan | None:  # fmt: skip
    """Return the tensors that a new run takes from `init.from`; None if it takes none, or has started. Collective."""
    path = config.init.source
    if not path or process.any(run_folder.has_checkpoints(config.run.dir)):
        return None
    # One process resolves the path: a run that is being trained may write a newer checkpoint at any moment.
    located = process.together(lambda: locate(path, notes.append) if process.is_main else Path())
    folder = process.gather(located)[0]
    return process.together(lambda: plan(config, dataset.classes, folder))


def prepare_run_folder(config: Config, dataset: Dataset, fresh: bool, process: Process) -> None:
    """Create the run folder, or check that this run may resume in it. Collective."""
    process.together(lambda: run_folder.prepare(config, dataset, fresh) if process.is_main else None)


def record_extension(config: Config, extension: Extension, process: Process, notes: list[str]) -> None:
    """Record in the run folder which files the extension was imported from. Collective."""
    sources = extension.sources if process.is_main else {}
    lines = process.together(lambda: outside_code.record(config.run.dir, sources))
    notes += [f"warning: {line}" for line in lines]


def own_folder(config: Config, process: Process, held: ExitStack, notes: list[str]) -> None:
    """Make rank 0 the owner of the run folder until `held` is closed; raise InputError if another process
    owns it. Collective.
    """
    lock = FolderLock(config.run.dir, "run.dir")
    process.together(lambda: held.enter_context(lock) if process.is_main else None)
    notes += [] if lock.warning is None else [f"warning: {lock.warning}"]


def newest_checkpoint(run_dir: Path, on_damaged: Callable[[str], object]) -> Path | None:
    """Return the checkpoint to resume from; move leftovers of interrupted or corrupt ones out of its way.

    Returns None for a run that never wrote a checkpoint. Raises CheckpointError if checkpoints were written but none is
    complete, or if a file that determines which ones are kept is corrupt or cannot be read.
    """
    root = run_folder.checkpoints(run_dir)
    read_pins(root)
    checkpoint.clean_up(root)
    rollback.finish(run_dir, root)
    reasons: list[str] = []
    newest = checkpoint.newest_complete(root, reasons.append)
    if newest is None:
        if reasons or run_folder.evidence_of_checkpoints(run_dir) is not None:
            raise CheckpointError(
                f"{reasons[0].partition(';')[0] if reasons else root}: no checkpoint of this run is complete, and "
                f"none was renamed; restore one; to start anew, choose another run.dir or move {run_dir} away"
            )
        return None
    for reason in reasons:
        on_damaged(reason)
    run_folder.record_first_checkpoint(run_dir, checkpoint.step_of(newest))
    checkpoint.quarantine_after(root, checkpoint.step_of(newest))
    return newest


def initial_state(
    config: Config, dataset: Dataset, process: Process, guard: FiniteGuard, extension: Extension
) -> TrainingState:
    """Build networks, engines and monitor, as they are before the first step."""
    gan = build.gan(config, process, guard, extension.parts)
    monitor = build.monitor(config, dataset, gan, process)
    return TrainingState(gan, monitor, checks.statistics_images(config, process.world_size))


def start_from(
    transfer: FineTuningPlan | None, state: TrainingState, config: Config, process: Process, notes: list[str]
) -> None:
    """Load the tensors of `transfer` into a new run's networks and record them in its folder. Collective."""
    if transfer is None:
        return
    transfer.apply(state.gan)
    notes += transfer.lines()
    process.together(lambda: transfer.write(config.run.dir) if process.is_main else None)


def restored(state: TrainingState, newest: Path, config: Config, process: Process) -> list[Cursor]:
    """Restore `state` from the checkpoint `newest`; return every stream's position. Collective."""
    saved = process.together(lambda: checkpoint.read(newest))
    check_restorable(saved.state, newest, config.data.streams)
    if "statistics_images" in saved.state:  # absent in checkpoints of earlier versions
        checks.check_statistics(config, process.world_size, saved.state["statistics_images"])
    return state.restore(saved)


def summary(config: Config, dataset: Dataset, process: Process, state: TrainingState) -> str:
    """Return one line on the run: data, processes, device, steps."""
    return (
        f"training {config.run.dir}: {dataset.splits['train'].images} images of {len(dataset.classes)} classes, "
        f"{process.world_size} process(es) on {process.device.type}, step {state.step} of {config.training.steps}"
    )


def opened_evaluator(config: Config, dataset: Dataset, process: Process) -> Evaluator | None:
    """Return the evaluator of the EMA generator; None if the run is not evaluated. Collective."""
    if not config.evaluation.every_steps:
        return None
    # torchvision and pytorch-fid take a second to import, which most runs need not spend.
    from biggan.evaluation.evaluate import new_evaluator  # noqa: PLC0415

    with Meter() as meter:
        return new_evaluator(config, dataset, process, meter if process.is_main else silent)
