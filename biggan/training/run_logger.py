"""What rank 0 shows and records: progress, metrics, pictures, checkpoints, MLflow."""

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
from biggan.errors import CheckpointError, Interrupted, StoppedRun
from biggan.files import append_line
from biggan.report.report_page import write_report
from biggan.runs.checkpoint import Writer
from biggan.runs.metrics import Metrics
from biggan.tracking import Tracker

TICK_EVERY_SECONDS = 30
RECENT_ROWS = 5
"""What the time that is left is told from."""
SHOWN = {"g_loss": "G", "d_loss_real": "D real", "d_loss_fake": "D fake"}


class RunLogger:
    """A run's voice. Use as a context manager: it closes the files and ends the MLflow run.

    On a terminal it shows a bar with rate and time left; elsewhere (a batch job's log) a line after the first step and
    one per logged step.
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

    def begin(self, step: int) -> None:
        """Training goes on after G step `step`."""
        self._start = self._since = self._ticked = time.monotonic()
        self._first = self._logged = step
        self._recent = deque([(step, self._start)], maxlen=RECENT_ROWS)
        self._bar.update(self._task, completed=step)

    def advance(self, step: int) -> None:
        """G step `step` is done."""
        self._bar.update(self._task, completed=step)
        if step == self._first + 1 and step % self._log_every:
            self._begun(step)

    def _begun(self, step: int) -> None:
        """The first step is done, and it is no logged one: a sign of life, and when the next is due."""
        now = time.monotonic()
        self._recent[0] = step, now  # starting up says nothing of the steps to come
        if not self.console.is_terminal:
            following = min(step + self._log_every - step % self._log_every, self._steps)
            self.say(f"step {step}/{self._steps} after {now - self._start:.1f} s; next line at step {following}")

    def log(self, step: int, batch_size: int, row: Mapping[str, float]) -> None:
        """Record and show the statistics of G step `step`, with the rate since the last such call."""
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
            self.say(f"step {step}/{self._steps}  {shown}  {clock(self._left(step, now))} left")
        self._recent.append((step, now))

    def _left(self, step: int, now: float) -> float:
        """Seconds to the last step, if steps take what they took in the recent rows, with all that was due there."""
        begun, since = self._recent[0]
        return (now - since) / max(step - begun, 1) * (self._steps - step)

    def aside(self, message: str, seconds: float) -> None:
        """Say what took so long besides training; it is left out of the rate, and not of the time that is left."""
        self._since += seconds
        self.say(message)

    def tick(self, what: str, done: int, of: int) -> None:
        """So much of some long work between two steps is done."""
        self._bar.update(self._task, losses=f"{what} {done}/{of}")
        now = time.monotonic()
        if not self.console.is_terminal and now - self._ticked > TICK_EVERY_SECONDS:
            self._ticked = now
            self.say(f"{what}: {done}/{of}")

    def event(self, verdict: Verdict, good_step: int | None, action: str) -> None:
        """Record a change of verdict, say it, and bring the report page up to date."""
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
        self.say(f"step {verdict.step}: {verdict.level}: {'; '.join(verdict.reasons[:3]) or 'no signal departs'}")
        if verdict.level.is_alarm:
            try:
                self.say(f"{action}; report: {write_report(self.run_dir)}")
            except Exception as error:  # the page is for people; what is done about the alarm must not wait for it
                self.say(f"{action}; no report ({error}); later: biggan report {self.run_dir}")

    def leave_course(self, good_step: int, count: int) -> None:
        """Rollback number `count` goes back to step `good_step`: what was recorded after it is set aside."""
        attempt = self.run_dir / "collapse" / f"attempt_{count:02d}"
        self.metrics.set_aside(good_step, attempt.with_suffix(".jsonl"))
        attempt.mkdir(exist_ok=True)
        for picture in (self.run_dir / "samples").glob("step_*.png"):
            if int(picture.stem.removeprefix("step_")) > good_step:
                picture.replace(attempt / picture.name)
        self.begin(good_step)

    def picture(self, image: Image.Image, step: int) -> None:
        """Keep a sample grid. A disk too full for it is said, and does not end the run."""
        path = self.run_dir / "samples" / f"step_{step:08d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            image.save(path)
        except OSError as error:
            self.say(f"{path}: not written ({error.strerror or error})")
            return
        if self.tracker is not None:
            self.tracker.log_file(path, "samples")

    def say(self, message: str) -> None:
        """One line for the user."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> RunLogger:
        self._bar.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._bar.stop()
        if isinstance(error, StoppedRun) and not error.said:  # now: closing the tracker can take its time
            self.say(f"biggan: {error}")
            error.said = True
        try:
            self.checkpoints.wait()
        except CheckpointError as failure:  # the loop was not there any more to hear of it
            self.say(f"biggan: {failure}")
        self.checkpoints.close()
        self.metrics.close()
        if self.tracker is not None:
            stopped = "KILLED" if isinstance(error, Interrupted) else "FAILED"
            self.tracker.close("FINISHED" if error is None else stopped)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
