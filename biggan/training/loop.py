"""The loop around the step: when to log, draw, save and stop. No mathematics.

Every decision is taken by all processes together, so that none waits for one that left.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from PIL import Image
from torch import Tensor

from biggan.config import Config
from biggan.data.loader import Loader, too_many_bad
from biggan.distributed.collectives import mean_over_processes
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.errors import CheckpointError, DataError, Interrupted, NonFiniteError
from biggan.generation.sample import generate_rows
from biggan.pictures import evenly_spaced, grid
from biggan.training import checkpoint, run_folder
from biggan.training.checkpoint import Checkpoint
from biggan.training.latents import Latents
from biggan.training.report import Report
from biggan.training.state import TrainingState
from biggan.training.step import Recipe, Stats, train_step


@dataclass
class Loop:
    """A run in this process. `report` is rank 0's; the others have none."""

    config: Config
    process: Process
    state: TrainingState
    loader: Loader
    latents: Latents
    recipe: Recipe
    guard: FiniteGuard
    classes: tuple[str, ...]
    report: Report | None
    _saved_step: int = -1

    def run(self) -> None:
        """Train until the last step; raises a StoppedRun, on all processes, if the run ends before."""
        state, steps = self.state, self.config.training.steps
        if self.report is not None:
            self.report.begin(state.step)
        with closing(self.loader), stop_signals() as stop:
            while state.step < steps:
                position = self.loader.cursors
                batches, trouble = self._fetch()
                if self.process.any(stop.requested or trouble is not None):
                    self.loader.cursors = position  # what was fetched is not used
                    self._end_early(trouble)
                step = state.step + 1
                stats = train_step(state.gan, step, batches, self.latents, self.recipe)
                self.guard.count_step()
                state.step = step
                if self.report is not None:
                    self.report.advance(step)
                self._after_step(step, stats, ending=step == steps)
            self._finish_saving()
            self._say_done()

    def _fetch(self) -> tuple[Iterator[tuple[Tensor, Tensor]], str | None]:
        """The real batches of the next step, or why there are none."""
        t = self.config.training
        try:
            batches = [next(self.loader) for _ in range(t.d_steps * t.accumulation)]
        except DataError as error:
            return iter(()), str(error)
        return to_device(batches, self.process.device), None

    def _after_step(self, step: int, stats: Stats, ending: bool) -> None:
        """Whatever is due after G step `step`; everything but the log is also due when the run ends."""
        config = self.config
        log = step % config.training.log_every_steps == 0
        save = step % config.checkpoint.every_steps == 0 or ending
        if log or save:
            self._stop_if_non_finite(step)
        if log:
            self._log(step, stats)
        if step % config.samples.every_steps == 0 or ending:
            self._draw(step)
        if save:
            self._save(step)

    def _end_early(self, trouble: str | None) -> None:
        """Save, and stop for a signal or because some process has no more data."""
        troubles = [message for message in self.process.gather(trouble) if message is not None]
        self._stop_if_non_finite(self.state.step)
        if self._saved_step != self.state.step:
            self._save(self.state.step)
        self._finish_saving()
        if troubles:
            raise DataError(troubles[0])
        raise Interrupted(
            f"{self.config.run.dir}: stopped by a signal after step {self.state.step}, checkpoint written; "
            f"run the same command again to go on"
        )

    def _log(self, step: int, stats: Stats) -> None:
        self._collect_bad_samples()
        means = mean_over_processes(torch.stack(list(stats.values())), self.process.group).tolist()
        t, known = self.config.training, self.state.bad_samples
        row = {"images_seen": step * t.d_steps * t.batch_size} | dict(zip(stats, means, strict=True))
        row |= {"bad_samples": len(known)}

        def write(report: Report) -> None:
            report.log(step, t.batch_size, row)
            report.checkpoints.raise_if_failed()

        self._on_main(write)
        limit = self.config.data.max_bad_samples
        if len(known) > limit:
            self._save(step)
            self._finish_saving()
            raise DataError(too_many_bad(len(known), limit, known))

    def _collect_bad_samples(self) -> None:
        """Learn of unreadable samples on any process."""
        known = self.state.bad_samples
        new = {name: reason for name, reason in self.loader.bad.items() if name not in known}
        self.loader.bad.clear()
        if not self.process.any(bool(new)):
            return
        for found in self.process.gather(new):
            for name, reason in found.items():
                if name not in known and self.report is not None:
                    self.report.say(f"skipped unreadable sample {name}: {reason}")
                known[name] = reason

    def _on_main(self, action: Callable[[Report], None]) -> None:
        """Write something on rank 0; if that fails (a full disk), all processes stop."""
        failure: CheckpointError | None = None
        if self.report is not None:
            try:
                action(self.report)
            except CheckpointError as error:
                failure = error
            except OSError as error:
                failure = CheckpointError(f"{self.config.run.dir}: cannot be written ({error.strerror or error})")
        message = self.process.gather(None if failure is None else str(failure))[0]
        if message is not None:
            raise CheckpointError(message)

    def _draw(self, step: int) -> None:
        if self.report is not None:
            self.report.picture(self._grid(), step)

    def _grid(self) -> Image.Image:
        shown = evenly_spaced(len(self.classes), self.config.samples.max_classes)
        with self.recipe.autocast:
            images = generate_rows(
                self.state.gan.ema.module, shown, self.config.samples.per_class, None, 0, self.process.device
            )
        return grid(images, [self.classes[k] for k in shown])

    def _stop_if_non_finite(self, step: int) -> None:
        """Read the guard (this waits for the device). The veto is equal on all processes: so is the decision."""
        vetoed_steps = int(self.guard.vetoed_steps.item())
        if not vetoed_steps:
            return
        culprits, onset = self.guard.culprits(), step - vetoed_steps + 1
        shown = ", ".join(culprits[:3]) + (f" and {len(culprits) - 3} more" if len(culprits) > 3 else "")
        what = f"{self.config.run.dir}: non-finite loss or gradient in step {onset}, first in {shown}"
        self.state.step = onset - 1
        try:
            folder = self._save_missing(onset - 1)
        except CheckpointError as error:
            raise NonFiniteError(f"{what}; {error}") from None
        raise NonFiniteError(f"{what}; the last finite state is {folder}")

    def _save_missing(self, step: int) -> Path:
        """The checkpoint of the state as it is, written unless it is there."""
        self._finish_saving()
        folder = run_folder.checkpoints(self.config.run.dir) / checkpoint.folder_name(step)
        if self.process.gather(checkpoint.damage(folder) if self.process.is_main else None)[0] is not None:
            self._save(step)
            self._finish_saving()
        return folder

    def _say_done(self) -> None:
        if self.report is not None:
            folder = self.config.run.dir
            self.report.say(
                f"done: step {self.state.step}. Pictures: {folder / 'samples'}  "
                f"checkpoints: {run_folder.checkpoints(folder)}"
            )

    def _save(self, step: int) -> None:
        """Copy the state and begin to write it; one copy at a time, however slow the disk."""
        self._collect_bad_samples()
        self._finish_saving()
        tensors = self.state.tensors(keep=self.process.is_main)
        cursors = [cursor for share in self.process.gather(self.loader.cursors) for cursor in share]

        def start(report: Report) -> None:
            report.metrics.sync()
            others = self.state.others(cursors, self.classes)
            report.checkpoints.start(step, Checkpoint(tensors, others, self.config.to_yaml()))

        self._on_main(start)
        self._saved_step = step

    def _finish_saving(self) -> None:
        self._on_main(lambda report: report.checkpoints.wait())


def to_device(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 batches -> (images float32 [n, 3, R, R] in [-1, 1], labels int64 [n]) on the device."""
    for images, labels in batches:
        x = images.to(device, non_blocking=True).to(torch.float32).div_(127.5).sub_(1)
        yield x, labels.to(device, non_blocking=True)


@dataclass
class Stop:
    """Whether a signal asked this process to stop."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask for a stop after the step instead of ending the process."""
    stop = Stop()

    def request(_signal: int, _frame: FrameType | None) -> None:
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    yield stop
    # Not after an error: torchrun's SIGTERM to those that are left must not cut short what they have to say.
    for number, handler in previous.items():
        signal.signal(number, handler)
