"""Rank 0's log of a run: progress, metrics, sample grids, checkpoints, MLflow."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from biggan.collapse.detector import Verdict
from biggan.errors import CheckpointError, Interrupted, StoppedRun, printable_line
from biggan.files import append_line
from biggan.report.report_page import write_report
from biggan.runs import run_folder
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.metrics import Metrics
from biggan.tracking import Tracker

TICK_EVERY_SECONDS = 30
RECENT_ROWS = 5
"""Logged rows from which the remaining time is estimated."""
SHOWN = {"g_loss": "G", "d_loss": "D", "d_loss_real": "D real", "d_loss_fake": "D fake"}
"""Metrics shown while training -> their short names."""


class RunLogger:
    """The log of a run. A context manager: on exit it closes the files and ends the MLflow run.

    On a terminal it shows a progress bar with rate and time left. Elsewhere (a batch job's log) it prints a line after
    the first step and one per logged step.
    """

    def __init__(
        self,
        run_dir: Path,
        console: Console,
        metrics: Metrics,
        checkpoints: Writer,
        tracker: Tracker | None,
        steps: int,
        log_every_steps: int,
    ):
        self.run_dir, self.console, self.metrics, self.tracker = run_dir, console, metrics, tracker
        self.checkpoints, self._steps, self._log_every = checkpoints, steps, log_every_steps
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, losses="")

    def start_clock(self, step: int) -> None:
        """Start measuring rate and remaining time; training resumes after G step `step`."""
        self._start = self._since = self._ticked = time.monotonic()
        self._first = self._logged = step
        self._recent = deque([(step, self._start)], maxlen=RECENT_ROWS)
        self._bar.update(self._task, completed=step)

    def advance(self, step: int) -> None:
        """Show that G step `step` is done."""
        self._bar.update(self._task, completed=step)
        if step == self._first + 1 and step % self._log_every:
            self._print_first_step(step)

    def _print_first_step(self, step: int) -> None:
        """Print that the first step is done, and when the next line is due."""
        now = time.monotonic()
        self._recent[0] = step, now  # the first step includes start-up: it does not predict the steps to come
        if not self.console.is_terminal:
            following = min(step + self._log_every - step % self._log_every, self._steps)
            self.print_line(f"step {step}/{self._steps} after {now - self._start:.1f} s; next line at step {following}")

    def log(self, step: int, batch_size: int, row: Mapping[str, float]) -> None:
        """Record and show the statistics of G step `step`, with the rate since the previous call."""
        now = time.monotonic()
        rate = (step - self._logged) * batch_size / (now - self._since)
        self._since, self._logged = now, step
        row = {"step": step, **row, "images_per_second": round(rate, 2), "seconds": round(now - self._start, 3)}
        self.metrics.write(row)
        if self.tracker is not None:
            self.tracker.log_metrics({k: v for k, v in row.items() if k != "step"}, step)
        losses = "  ".join(f"{name} {row[key]:.3f}" for key, name in SHOWN.items() if key in row)
        shown = f"{losses}  {rate:.1f} images/s"
        self._bar.update(self._task, losses=shown)
        if not self.console.is_terminal:
            self.print_line(f"step {step}/{self._steps}  {shown}  {clock(self._seconds_left(step, now))} left")
        self._recent.append((step, now))

    def _seconds_left(self, step: int, now: float) -> float:
        """Estimate the seconds to the last step from the recent rows, everything that was due in them included."""
        first, since = self._recent[0]
        return (now - since) / max(step - first, 1) * (self._steps - step)

    def print_untimed(self, message: str, seconds: float) -> None:
        """Print the result of other work. Its seconds count toward the remaining time, but not toward the rate."""
        self._since += seconds
        self.print_line(message)

    def tick(self, task: str, done: int, total: int) -> None:
        """Show the progress of long work between two steps."""
        self._bar.update(self._task, losses=f"{task} {done}/{total}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._ticked > TICK_EVERY_SECONDS:
            self._ticked = now
            self.print_line(f"{task}: {done}/{total}")

    def log_verdict(self, verdict: Verdict, good_step: int | None, action: str) -> None:
        """Record and print a change of verdict, and update the report page."""
        row = {
            "step": verdict.step,
            "level": verdict.level,
            "onset_step": verdict.onset_step,
            "reasons": verdict.reasons,
            "layers": verdict.layers,
            "signals": verdict.families,
            "action": action,
            "good_step": good_step,
        }
        folder = self.run_dir / "collapse"
        folder.mkdir(exist_ok=True)
        append_line(folder / "events.jsonl", json.dumps(row))
        reasons = "; ".join(verdict.reasons[:3]) or "all signals are back in their usual range"
        self.print_line(f"step {verdict.step}: {verdict.level}: {reasons}")
        if verdict.level.is_alarm:
            try:
                self.print_line(f"{action}; report: {write_report(self.run_dir)}")
            except Exception as error:  # the report is for people: the answer to the alarm must not depend on it
                self.print_line(f"{action}; report not written ({error}); later: biggan report {self.run_dir}")

    def set_aside_attempt(self, good_step: int, rollback_count: int) -> None:
        """Move what was recorded after `good_step` to collapse/attempt_*, before rollback number `rollback_count`."""
        attempt = self.run_dir / "collapse" / f"attempt_{rollback_count:02d}"
        self.metrics.move_rows_after(good_step, attempt.with_suffix(".jsonl"))
        attempt.mkdir(exist_ok=True)
        for file in (self.run_dir / "samples").glob("step_*.png"):
            if int(file.stem.removeprefix("step_")) > good_step:
                file.replace(attempt / file.name)
        self.start_clock(good_step)

    def save_sample_grid(self, image: Image.Image, step: int) -> None:
        """Write a sample grid. A disk that is full is reported and does not stop the run."""
        path = self.run_dir / "samples" / f"step_{step:08d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            image.save(path)
        except OSError as error:
            self.print_line(f"{path}: not written ({error.strerror or error})")
            return
        if self.tracker is not None:
            self.tracker.log_file(path, "samples")

    def print_done(self, first: int, step: int) -> None:
        """Print the last step and where the results are; or, if no step was left after `first`, how to continue."""
        if step == first:
            self.print_line(
                f"nothing to train: {self.run_dir} is at step {step} of training.steps={self._steps}; "
                f"to continue, add training.steps=N with N over {step}"
            )
            return
        self.print_line(
            f"done: step {step}. Samples: {self.run_dir / 'samples'}  "
            f"checkpoints: {run_folder.checkpoints(self.run_dir)}"
        )

    def print_line(self, message: str) -> None:
        """Print one line for the user."""
        self.console.print(printable_line(message), highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> RunLogger:
        self._bar.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        try:
            self._close_files(error)
        finally:
            if self.tracker is not None:
                stopped = "KILLED" if isinstance(error, Interrupted) else "FAILED"
                self.tracker.close("FINISHED" if error is None else stopped)

    def _close_files(self, error: BaseException | None) -> None:
        """Report why the run stops, finish the checkpoint that was started, and close the files."""
        self._bar.stop()
        if isinstance(error, StoppedRun) and not error.reported:  # first: closing the tracker can take a while
            self.print_line(f"biggan: {error}")
            error.reported = True
        try:
            self.checkpoints.wait()
        except (CheckpointError, OSError) as failure:  # the loop has ended and cannot report it
            self.print_line(f"biggan: {failure}")
        self.checkpoints.close()
        self.metrics.close()


def clock(seconds: float) -> str:
    """Return `seconds` as h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
