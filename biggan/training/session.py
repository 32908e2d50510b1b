"""The state of a run in this process, and everything that it reads and writes beside the step.

The methods are collective: all processes call them together, so no process waits for one that has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from biggan.config import Config
from biggan.data.loader import too_many_bad
from biggan.data.stream import Cursor
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.errors import CheckpointError, DataError
from biggan.generation.sample import generate_rows
from biggan.image_grid import evenly_spaced, grid
from biggan.models.networks import Generator
from biggan.runs import checkpoint, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.training.last_finite import LastFinite
from biggan.training.run_logger import RunLogger
from biggan.training.state import TrainingState
from biggan.training.trajectory import Trajectory


@dataclass
class Session:
    """The state of a run, the trajectory it is on, and its files. Only rank 0 has a `logger`."""

    config: Config
    process: Process
    state: TrainingState
    trajectory: Trajectory
    new_trajectory: Callable[[TrainingState, list[Cursor]], Trajectory]
    """Build the trajectory that continues from a state and every stream's position."""
    guard: FiniteGuard
    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    logger: RunLogger | None
    last_finite: LastFinite
    saved_step: int = -1
    """G step of the newest checkpoint that holds exactly that step's state; -1 before the first."""

    @property
    def checkpoints(self) -> Path:
        """The run's folder of checkpoints."""
        return run_folder.checkpoints(self.config.run.dir)

    @property
    def ema_generator(self) -> Generator:
        """The EMA generator."""
        generator = self.state.gan.ema.module
        assert isinstance(generator, Generator), "the EMA is one of a generator"
        return generator

    def on_main(self, action: Callable[[RunLogger], None]) -> None:
        """Write something on rank 0; if that fails (a full disk), raise CheckpointError on every process."""
        failure: CheckpointError | None = None
        if self.logger is not None:
            try:
                action(self.logger)
            except CheckpointError as error:
                failure = error
            except OSError as error:
                reason = error.strerror or error
                failure = CheckpointError(
                    f"{self.config.run.dir}: cannot be written ({reason}); fix it and rerun the same command"
                )
        message = self.process.gather(None if failure is None else str(failure))[0]
        if message is not None:
            raise CheckpointError(message)

    def draw_samples(self, step: int) -> None:
        """Write a grid of the EMA generator's samples, one row per class, from the same latents each time."""
        if self.logger is None:
            return
        shown = evenly_spaced(len(self.classes), self.config.samples.max_classes)
        with self.trajectory.recipe.autocast:
            images = generate_rows(
                self.ema_generator, shown, self.config.samples.per_class, None, 0, self.process.device
            )
        self.logger.save_sample_grid(grid(images, [self.classes[k] for k in shown]), step)

    def write_row(self, step: int, row: Mapping[str, float]) -> None:
        """Append one row to the metrics, and raise the error of a checkpoint that could not be written."""

        def write(logger: RunLogger) -> None:
            logger.log(step, self.config.training.batch_size, {"images_seen": self.state.images_seen, **row})
            logger.checkpoints.raise_if_failed()

        self.on_main(write)

    def save(self, step: int) -> None:
        """Copy the state and start to write it. Only one copy is in memory at a time, however slow the disk is."""
        self.collect_bad_samples()
        self.finish_saving()
        tensors = self.state.tensors(keep=self.process.is_main)
        cursors = [cursor for part in self.process.gather(self.trajectory.loader.cursors) for cursor in part]

        def start(logger: RunLogger) -> None:
            logger.metrics.sync()
            others = self.state.others(cursors, self.classes)
            logger.checkpoints.start(step, Checkpoint(tensors, others, self.config.to_yaml()))

        self.on_main(start)
        self.saved_step = step

    def finish_saving(self) -> None:
        """Wait until the checkpoint that was started is on disk."""
        self.on_main(lambda logger: logger.checkpoints.wait())

    def save_unless_saved(self) -> None:
        """Make sure that a checkpoint of the current state is on disk."""
        if self.saved_step != self.state.step:
            self.save(self.state.step)
        self.finish_saving()

    def save_unless_complete(self) -> Path:
        """Return the checkpoint of the current step; write it if it is missing or corrupt."""
        self.finish_saving()
        folder = self.checkpoints / checkpoint.folder_name(self.state.step)
        is_main = self.process.is_main
        reason = self.process.together(lambda: checkpoint.find_corruption(folder) if is_main else None)
        if self.process.gather(reason)[0] is not None:
            self.save(self.state.step)
            self.finish_saving()
        return folder

    def collect_bad_samples(self) -> None:
        """Gather the unreadable samples that any process has met."""
        known = self.state.bad_samples
        new = {name: reason for name, reason in self.trajectory.loader.bad.items() if name not in known}
        self.trajectory.loader.bad.clear()
        if not self.process.any(bool(new)):
            return
        for reported in self.process.gather(new):
            for name, reason in reported.items():
                if name not in known and self.logger is not None:
                    self.logger.print_line(f"skipped unreadable sample {name}: {reason}")
                known[name] = reason

    def stop_if_too_many_bad_samples(self) -> None:
        """Save and raise DataError if more samples are unreadable than `data.max_bad_samples`."""
        known, limit = self.state.bad_samples, self.config.data.max_bad_samples
        if len(known) > limit:
            self.save(self.state.step)
            self.finish_saving()
            raise DataError(too_many_bad(len(known), limit, known))
