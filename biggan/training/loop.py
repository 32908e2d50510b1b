"""The loop around the step: fetch, train, then log, measure, judge, draw and save when due. It has no mathematics.

Every decision is taken by all processes together. If one process left the loop by itself, the others would wait in
their next collective until the time-out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from biggan.collapse.detector import Verdict
from biggan.data.loader import to_unit
from biggan.errors import DataError, Interrupted
from biggan.evaluation.result import Result
from biggan.models.networks import Generator
from biggan.training.last_finite import Position
from biggan.training.recovery import Recovery
from biggan.training.session import Session
from biggan.training.step import train_step
from biggan.training.stop import Stop, stop_on_signals


class Loop:
    """The loop of a run. `evaluate` measures the EMA generator and is collective; with None nothing is measured."""

    def __init__(self, session: Session, evaluate: Callable[[Generator], Result] | None):
        self.session, self.evaluate = session, evaluate
        self.recovery = Recovery(session)

    def run(self) -> None:
        """Train until the last step; raise a StoppedRun, on all processes, if the run stops before it."""
        session, steps = self.session, self.session.config.training.steps
        first = session.state.step
        if session.logger is not None:
            session.logger.start_clock(first)
        try:
            with stop_on_signals(aloud=session.logger is not None) as stop:
                while session.state.step < steps:
                    self._step(stop)
                session.finish_saving()
                if session.logger is not None:
                    session.logger.print_done(first, session.state.step)
        finally:
            session.trajectory.loader.close()

    def _step(self, stop: Stop) -> None:
        """Train one G step, then do what is due after it."""
        session, state, trajectory = self.session, self.session.state, self.session.trajectory
        position = trajectory.loader.cursors
        batches, error = self._fetch()
        # A signal reaches one process before another, and a shard may be missing on one host only: all stop together.
        if session.process.any(stop.requested or error is not None):
            trajectory.loader.cursors = position  # the fetched batches were not used: a resume reads them again
            self._end_early(error)
            return
        step = state.step + 1
        session.last_finite.remember(Position(state.images_seen, position))
        stats = train_step(state.gan, step, batches, trajectory.draws, trajectory.recipe)
        session.guard.count_step()
        state.monitor.add(stats)
        state.step = step
        state.images_seen += trajectory.recipe.real_batches * session.config.micro_batch_size
        if session.logger is not None:
            session.logger.advance(step)
        self._after_step(step, ending=step == session.config.training.steps)

    def _fetch(self) -> tuple[Iterator[tuple[Tensor, Tensor]], str | None]:
        """Return the real batches of the next step, or the reason why there are none."""
        trajectory = self.session.trajectory
        try:
            batches = [next(trajectory.loader) for _ in range(trajectory.recipe.real_batches)]
        except DataError as error:
            return iter(()), str(error)
        return to_device(batches, self.session.process.device), None

    def _after_step(self, step: int, ending: bool) -> None:
        """Do what is due after G step `step`; everything but the log is also due when the run ends."""
        session, config = self.session, self.session.config
        log = step % config.training.log_every_steps == 0
        measure = self.evaluate is not None and (step % config.evaluation.every_steps == 0 or ending)
        save = step % config.checkpoint.every_steps == 0 or ending or measure
        # Judge before saving: a checkpoint written after a collapse must not push out one from before it.
        if (log or save) and self.recovery.respond(self._judge(step, log, measure)):
            return  # rolled back: the rest would belong to the abandoned trajectory
        if step % config.samples.every_steps == 0 or ending:
            session.draw_samples(step)
        if save:
            session.save(step)

    def _judge(self, step: int, log: bool, measure: bool = False) -> Verdict:
        """Observe and measure what is due at G step `step`, log it, and return the verdict."""
        session, monitor = self.session, self.session.state.monitor
        vetoed_steps = int(session.guard.vetoed_steps.item())  # waits for the device; the veto is equal on all ranks
        if vetoed_steps:  # the weights have not moved since: nothing else is worth logging
            session.write_row(step, {"non_finite_steps": vetoed_steps})
            return monitor.judge(step, vetoed_steps, session.state.alarm)
        session.last_finite.forget_positions()
        if log or measure:
            row: dict[str, float] = {}
            if log:
                recipe = session.trajectory.recipe
                row = {"non_finite_steps": 0, **monitor.observe(step, recipe.adversarial.level)}
                row |= recipe.scheduled_values(step)
            row |= self._measure(step) if measure else {}
            session.collect_bad_samples()
            session.write_row(step, {**row, "bad_samples": len(session.state.bad_samples)})
            session.stop_if_too_many_bad_samples()
        return monitor.judge(step, vetoed_steps, session.state.alarm)

    def _measure(self, step: int) -> dict[str, float]:
        """Evaluate the EMA generator; return the metrics to log, and keep the score for the next checkpoint."""
        assert self.evaluate is not None, "an evaluation is due only then"
        session, metric = self.session, self.session.config.evaluation.metric
        started = time.monotonic()
        result = self.evaluate(session.ema_generator)
        seconds = time.monotonic() - started
        session.state.evaluation = {
            "step": step, "metric": metric, "metrics": dict(result.metrics), "protocol": asdict(result.protocol),
        }  # fmt: skip
        line = f"step {step}: {metric} {result.metrics[metric]:.4g} ({result.protocol.in_words()})"
        session.on_main(lambda logger: logger.print_untimed(line, seconds))
        return {f"evaluation/{name}": value for name, value in result.metrics.items()}

    def _end_early(self, error: str | None) -> None:
        """Save, then stop for a signal or because a process has no more data; return only after a rollback."""
        session = self.session
        errors = [message for message in session.process.gather(error) if message is not None]
        if session.guard.vetoed_steps.item() and self.recovery.respond(self._judge(session.state.step, log=False)):
            return
        session.save_unless_saved()
        if errors:
            raise DataError(errors[0])
        raise Interrupted(
            f"{session.config.run.dir}: stopped by a signal after step {session.state.step}, checkpoint written; "
            f"rerun the same command to resume"
        )


def to_device(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield uint8 batches as (images float32 [n, C, R, R] in [-1, 1], labels int64 [n]) on the device."""
    for images, labels in batches:
        yield to_unit(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
