"""The loop around the step: when to log, draw, save and stop. No mathematics.

Every decision is taken by all processes together, so that none waits for one that left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from biggan.collapse.detector import Level, Verdict
from biggan.config import Config
from biggan.data.loader import to_unit, too_many_bad
from biggan.data.stream import Cursor
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.errors import CheckpointError, CollapsedError, DataError, Interrupted, NonFiniteError
from biggan.evaluation.result import Result
from biggan.generation.sample import generate_rows
from biggan.models.networks import Generator
from biggan.pictures import evenly_spaced, grid
from biggan.runs import checkpoint, rollback, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.ring import read_pins
from biggan.runs.rollback import Rollback
from biggan.training.run_logger import RunLogger
from biggan.training.state import TrainingState
from biggan.training.step import train_step
from biggan.training.stop import Stop, stop_signals
from biggan.training.trajectory import Trajectory


@dataclass
class Loop:
    """A run in this process. `report` is rank 0's; the others have none."""

    config: Config
    process: Process
    state: TrainingState
    course: Trajectory
    new_course: Callable[[TrainingState, list[Cursor]], Trajectory]
    """From the state and every stream's position: after a rollback."""
    guard: FiniteGuard
    classes: tuple[str, ...]
    evaluate: Callable[[Generator], Result] | None
    """Measures the averaged generator; collective. None: never."""
    report: RunLogger | None
    saved_step: int = -1
    """Of the newest checkpoint that has the state of that step."""

    def run(self) -> None:
        """Train until the last step; raises a StoppedRun, on all processes, if the run ends before."""
        state, steps = self.state, self.config.training.steps
        if self.report is not None:
            self.report.begin(state.step)
        try:
            with stop_signals(aloud=self.report is not None) as stop:
                while state.step < steps:
                    self._step(stop)
                self._finish_saving()
                self._say_done()
        finally:
            self.course.loader.close()

    def _step(self, stop: Stop) -> None:
        """One G step and what is due after it."""
        course, state = self.course, self.state
        position = course.loader.cursors
        batches, trouble = self._fetch()
        if self.process.any(stop.requested or trouble is not None):
            course.loader.cursors = position  # what was fetched is not used
            self._end_early(trouble)
            return
        step = state.step + 1
        stats = train_step(state.gan, step, batches, course.latents, course.recipe)
        self.guard.count_step()
        state.monitor.add(stats)
        state.step = step
        state.images_seen += course.recipe.d_steps * self.config.training.batch_size
        if self.report is not None:
            self.report.advance(step)
        self._after_step(step, ending=step == self.config.training.steps)

    def _fetch(self) -> tuple[Iterator[tuple[Tensor, Tensor]], str | None]:
        """The real batches of the next step, or why there are none."""
        course = self.course
        try:
            batches = [next(course.loader) for _ in range(course.recipe.d_steps * course.recipe.accumulation)]
        except DataError as error:
            return iter(()), str(error)
        return to_device(batches, self.process.device), None

    def _after_step(self, step: int, ending: bool) -> None:
        """Whatever is due after G step `step`; everything but the log is also due when the run ends."""
        config = self.config
        log = step % config.training.log_every_steps == 0
        measure = self.evaluate is not None and (step % config.evaluation.every_steps == 0 or ending)
        save = step % config.checkpoint.every_steps == 0 or ending or measure
        if (log or save) and self._answer(self._judged(step, log, measure)):
            return  # the rest would belong to the path that was left
        if step % config.samples.every_steps == 0 or ending:
            self._draw(step)
        if save:
            self._save(step)

    def _judged(self, step: int, log: bool, measure: bool = False) -> Verdict:
        """Observe and measure what is due at G step `step`, log it, and judge."""
        monitor, vetoed_steps = self.state.monitor, int(self.guard.vetoed_steps.item())  # waits for the device
        if vetoed_steps:  # equal on all processes, as the veto is; nothing else is worth a look
            self._write_row(step, {"non_finite_steps": vetoed_steps})
        elif log or measure:
            observed = {"non_finite_steps": 0, **monitor.observe(step)} if log else {}
            self._log(step, observed | (self._measured(step) if measure else {}))
        return monitor.judge(step, vetoed_steps)

    def _measured(self, step: int) -> dict[str, float]:
        """Measure the averaged generator: what is due in the log, and the score that the next checkpoint holds."""
        assert self.evaluate is not None, "only then it is due"
        generator, metric = self.state.gan.ema.module, self.config.evaluation.metric
        assert isinstance(generator, Generator), "the average is of one"
        begun = time.monotonic()
        found = self.evaluate(generator)
        seconds = time.monotonic() - begun
        self.state.evaluation = {
            "step": step, "metric": metric, "metrics": dict(found.metrics), "protocol": asdict(found.protocol),
        }  # fmt: skip
        words = f"step {step}: {metric} {found.metrics[metric]:.4g} ({found.protocol.in_words()})"
        self._on_main(lambda report: report.aside(words, seconds))
        return {f"evaluation/{name}": value for name, value in found.metrics.items()}

    def _answer(self, verdict: Verdict) -> bool:
        """Do what a verdict asks for; whether the run has gone back to another step."""
        was = self.state.level
        if verdict.level is Level.WARNING and was.is_alarm:
            return False  # an alarm lasts until nothing departs any more: its witnesses come and go
        self.state.level = verdict.level
        if not verdict.level.is_alarm:
            if verdict.level is not was:
                self._record(verdict, None, "none")
            return False
        vetoed, wanted = int(self.guard.vetoed_steps.item()), self.config.collapse.on_collapse
        goes_on = wanted == "continue" and not vetoed
        if goes_on and was.is_alarm:  # it has been answered
            if verdict.level is not was:
                self._record(verdict, None, "none")
            return False
        self._draw(verdict.step)
        good = self._good_step(verdict)
        if wanted == "rollback" and good is not None and self.state.rollbacks < self.config.collapse.max_rollbacks:
            self._record(verdict, good, "rolled back")
            self._roll_back(good)
            return True
        self._record(verdict, good, "halted" if not goes_on else "none" if good is None else "pinned")
        if not goes_on:
            self._halt(verdict, good, vetoed)
        return False

    def _good_step(self, verdict: Verdict) -> int | None:
        """The newest whole checkpoint from before the onset, if there is one.

        A run that has gone on after an alarm keeps the one that was named then: what came later may be ill.
        """
        self._finish_saving()
        root = run_folder.checkpoints(self.config.run.dir)
        good = None
        if self.process.is_main:
            named = read_pins(root).good if self.config.collapse.on_collapse == "continue" else None
            good = named or rollback.newest_before(root, verdict.onset_step or verdict.step)
        told: int | None = self.process.gather(good)[0]
        return told

    def _record(self, verdict: Verdict, good: int | None, action: str) -> None:
        """Write down a change of verdict and what is done; on an alarm, pin the checkpoints from before it."""

        def write(report: RunLogger) -> None:
            if good is not None and verdict.onset_step is not None:
                report.checkpoints.pin(verdict.onset_step, good, verdict.reasons[0])
            report.event(verdict, good, action)

        self._on_main(write)

    def _roll_back(self, good: int) -> None:
        """Go back to the checkpoint of step `good` in the same processes, and from there another way."""
        folder, root = self.config.run.dir, run_folder.checkpoints(self.config.run.dir)
        count = self.state.rollbacks + 1
        saved = self.process.together(lambda: checkpoint.load(root / checkpoint.folder_name(good)))

        def leave(report: RunLogger) -> None:
            report.leave_course(good, count)
            rollback.begin(folder, Rollback(count, good))
            rollback.finish(folder, root)

        self._on_main(leave)
        cursors = self.state.restore(saved)
        self.state.begin_again(Rollback(count, good))
        self.guard.clear()
        self.course.loader.close()
        self.course = self.new_course(self.state, cursors)
        self.state.level, self.saved_step = Level.HEALTHY, good

    def _halt(self, verdict: Verdict, good: int | None, vetoed_steps: int) -> None:
        """End the run; of a non-finite one, with the last finite state."""
        folder = self.config.run.dir
        if vetoed_steps:
            self._halt_non_finite(verdict.step - vetoed_steps, self.guard.culprits())
        if self.saved_step != self.state.step:
            self._save(self.state.step)
        self._finish_saving()
        from_here = f"--resume {folder}@good --as {folder}-child" if good is not None else "with another config"
        raise CollapsedError(
            f"{folder}: {verdict.level} at step {verdict.step}, since about step {verdict.onset_step}: "
            f"{'; '.join(verdict.reasons[:3])}; last good checkpoint: {good}; look at {folder}/collapse/report.html, "
            f"then biggan train {from_here}, or the same command with collapse.on_collapse=continue"
        )

    def _halt_non_finite(self, step: int, culprits: list[str]) -> None:
        """End a run whose state, for the veto, is still that after G step `step`."""
        shown = ", ".join(culprits[:3]) + (f" and {len(culprits) - 3} more" if len(culprits) > 3 else "")
        what = f"{self.config.run.dir}: non-finite loss or gradient in step {step + 1}, first in {shown}"
        self.state.step = step
        try:
            folder = self._save_missing(step)
        except CheckpointError as error:
            raise NonFiniteError(f"{what}; {error}") from None
        raise NonFiniteError(f"{what}; the last finite state is {folder}")

    def _end_early(self, trouble: str | None) -> None:
        """Save, and stop for a signal or because some process has no more data; returns only from a rollback."""
        troubles = [message for message in self.process.gather(trouble) if message is not None]
        if self.guard.vetoed_steps.item() and self._answer(self._judged(self.state.step, log=False)):
            return
        if self.saved_step != self.state.step:
            self._save(self.state.step)
        self._finish_saving()
        if troubles:
            raise DataError(troubles[0])
        raise Interrupted(
            f"{self.config.run.dir}: stopped by a signal after step {self.state.step}, checkpoint written; "
            f"run the same command again to go on"
        )

    def _log(self, step: int, observed: Mapping[str, float]) -> None:
        self._collect_bad_samples()
        known, limit = self.state.bad_samples, self.config.data.max_bad_samples
        self._write_row(step, {**observed, "bad_samples": len(known)})
        if len(known) > limit:
            self._save(step)
            self._finish_saving()
            raise DataError(too_many_bad(len(known), limit, known))

    def _write_row(self, step: int, row: Mapping[str, float]) -> None:
        def write(report: RunLogger) -> None:
            report.log(step, self.config.training.batch_size, {"images_seen": self.state.images_seen, **row})
            report.checkpoints.raise_if_failed()

        self._on_main(write)

    def _collect_bad_samples(self) -> None:
        """Learn of unreadable samples on any process."""
        known = self.state.bad_samples
        new = {name: reason for name, reason in self.course.loader.bad.items() if name not in known}
        self.course.loader.bad.clear()
        if not self.process.any(bool(new)):
            return
        for found in self.process.gather(new):
            for name, reason in found.items():
                if name not in known and self.report is not None:
                    self.report.say(f"skipped unreadable sample {name}: {reason}")
                known[name] = reason

    def _on_main(self, action: Callable[[RunLogger], None]) -> None:
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
        generator = self.state.gan.ema.module
        assert isinstance(generator, Generator), "the average is of one"
        with self.course.recipe.autocast:
            images = generate_rows(generator, shown, self.config.samples.per_class, None, 0, self.process.device)
        return grid(images, [self.classes[k] for k in shown])

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
        cursors = [cursor for share in self.process.gather(self.course.loader.cursors) for cursor in share]

        def start(report: RunLogger) -> None:
            report.metrics.sync()
            others = self.state.others(cursors, self.classes)
            report.checkpoints.start(step, Checkpoint(tensors, others, self.config.to_yaml()))

        self._on_main(start)
        self.saved_step = step

    def _finish_saving(self) -> None:
        self._on_main(lambda report: report.checkpoints.wait())


def to_device(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 batches -> (images float32 [n, 3, R, R] in [-1, 1], labels int64 [n]) on the device."""
    for images, labels in batches:
        yield to_unit(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
