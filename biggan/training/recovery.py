"""Carry out the answer to a verdict: record it, pin checkpoints, roll back in the same processes, or stop the run.

`biggan.collapse.response` decides; this module acts. Every method is collective.
"""

from __future__ import annotations

from biggan.collapse.detector import Level, Verdict
from biggan.collapse.response import Action, ResponsePolicy, alarm_after
from biggan.config.interventions import in_force
from biggan.errors import CheckpointError, CollapsedError, NonFiniteError
from biggan.runs import checkpoint, lineage, rollback
from biggan.runs.ring import read_pins
from biggan.runs.rollback import Rollback
from biggan.training.run_logger import RunLogger
from biggan.training.session import Session


class Recovery:
    """The answers to alarms of one run."""

    def __init__(self, session: Session):
        collapse = session.config.collapse
        self.session = session
        self.policy = ResponsePolicy(collapse.on_collapse, collapse.max_rollbacks)

    def respond(self, verdict: Verdict) -> bool:
        """Answer a verdict; return True if the run has gone back to an earlier step.

        Raises CollapsedError or NonFiniteError if the run stops here.
        """
        session, policy = self.session, self.policy
        state, previous = session.state, session.state.level
        state.level = policy.level_after(previous, verdict)
        state.alarm = alarm_after(state.alarm, state.level, verdict)
        vetoed_steps = int(session.guard.vetoed_steps.item())
        if not policy.must_act(previous, verdict, non_finite=vetoed_steps > 0):
            if state.level is not previous:
                self._record(verdict, None, Action.NONE)
            return False
        session.draw_samples(verdict.step)
        good_step = self._good_step(verdict)
        action = policy.action(good_step, state.rollbacks, non_finite=vetoed_steps > 0)
        self._record(verdict, good_step, action)
        if action is Action.ROLLED_BACK:
            assert good_step is not None, "the policy rolls back to a checkpoint"
            self.roll_back(good_step)
        elif action is Action.HALTED:
            self._halt(verdict, good_step, vetoed_steps)
        return action is Action.ROLLED_BACK

    def _good_step(self, verdict: Verdict) -> int | None:
        """Return the step of the newest complete checkpoint from before the onset; None if there is none.

        A run that continued after an alarm keeps the checkpoint named then: later ones may be unhealthy.
        """
        session = self.session
        session.finish_saving()

        def find() -> int | None:
            pinned = read_pins(session.checkpoints).good if self.policy.on_collapse == "continue" else None
            return pinned or rollback.newest_before(session.checkpoints, verdict.onset_step or verdict.step)

        good_step = session.process.together(lambda: find() if session.process.is_main else None)
        agreed: int | None = session.process.gather(good_step)[0]
        return agreed

    def _record(self, verdict: Verdict, good_step: int | None, action: Action) -> None:
        """Record a change of verdict and its answer; on an alarm, pin the checkpoints from before the onset."""

        def write(logger: RunLogger) -> None:
            if good_step is not None and verdict.onset_step is not None:
                logger.checkpoints.pin(verdict.onset_step, good_step, verdict.reasons[0])
            logger.log_verdict(verdict, good_step, action)

        self.session.on_main(write)

    def roll_back(self, good_step: int) -> None:
        """Restore the checkpoint of `good_step` in the same processes, and continue on another trajectory."""
        session, folder = self.session, self.session.config.run.dir
        record = Rollback(session.state.rollbacks + 1, good_step)
        path = session.checkpoints / checkpoint.folder_name(good_step)
        saved = session.process.together(lambda: checkpoint.load(path))

        def leave(logger: RunLogger) -> None:
            # In this order: a run killed in between finishes the rollback when it resumes.
            logger.set_aside_attempt(good_step, record.count)
            rollback.begin(folder, record)
            rollback.finish(folder, session.checkpoints)

        session.on_main(leave)
        cursors = session.state.restore(saved)
        session.state.apply_rollback(record)
        session.guard.clear()
        session.last_finite.forget_positions()
        session.trajectory.loader.close()
        session.trajectory = session.new_trajectory(session.state, cursors)
        session.state.level, session.state.alarm, session.saved_step = Level.HEALTHY, None, good_step
        before, now = (in_force(session.config, count) for count in (record.count - 1, record.count))
        changed = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in lineage.changes(before, now).items())
        line = f"rolled back to step {good_step}, with another seed: {changed or 'no other change'}"
        session.on_main(lambda logger: logger.print_line(line))

    def _halt(self, verdict: Verdict, good_step: int | None, vetoed_steps: int) -> None:
        """Stop the run, with a checkpoint of its state; of a non-finite run, of the last finite state."""
        session, folder = self.session, self.session.config.run.dir
        if vetoed_steps:
            self._halt_non_finite(verdict.step, vetoed_steps)
        session.save_unless_saved()
        resume = f"--resume {folder}@good --as {folder}-child" if good_step is not None else "with another config"
        raise CollapsedError(
            f"{folder}: {verdict.level} at step {verdict.step}, since about step {verdict.onset_step}: "
            f"{'; '.join(verdict.reasons[:3])}; last good checkpoint: {good_step}; see {folder}/collapse/report.html, "
            f"then run biggan train {resume}, or the same command with collapse.on_collapse=continue"
        )

    def _halt_non_finite(self, step: int, vetoed_steps: int) -> None:
        """Stop a run whose last `vetoed_steps` steps, up to G step `step`, were vetoed: save the state before them.

        If G's update was the first non-finite one, D has already had its updates of that step.
        """
        session, culprits, step = self.session, self.session.guard.non_finite_parameters(), step - vetoed_steps
        shown = ", ".join(culprits[:3]) + (f" and {len(culprits) - 3} more" if len(culprits) > 3 else "")
        message = f"{session.config.run.dir}: non-finite loss or gradient in step {step + 1}, first in {shown}"
        session.state.step = step
        session.state.images_seen, session.trajectory.loader.cursors = session.last_finite.restore(vetoed_steps)
        try:
            folder = session.save_unless_complete()
        except CheckpointError as error:
            raise NonFiniteError(f"{message}; {error}") from None
        raise NonFiniteError(f"{message}; the last finite state is {folder}")
