"""Progress display: a bar on a terminal, else a line every 15 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Left

Tick = Callable[[str, int, int], None]
"""Progress callback with arguments (task name, items done, items in total)."""
LINE_EVERY_SECONDS = 15.0


def silent(_task: str, _done: int, _total: int) -> None:
    """Ignore progress; used on ranks other than 0."""


class Meter:
    """A `Tick` that displays progress, rate and remaining time. Use it as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        rate = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), Left())
        self._bar = Progress(*columns, *rate, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None
        self._name, self._first, self._done, self._since, self._printed_at = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if task != self._name or done < self._done:  # a repeated task gets its own rate
            self._name, self._first, self._since, self._printed_at = task, done, now, now
            self._task = self._bar.add_task(task, total=total, rate="")
        self._done = done
        rate = (done - self._first) / (now - self._since) if now > self._since else 0.0
        assert self._task is not None, "added above"
        self._bar.update(self._task, completed=done, rate=f"{rate:.1f}/s" if rate else "")
        if not self._console.is_terminal and rate and (now - self._printed_at > LINE_EVERY_SECONDS or done == total):
            self._printed_at = now
            sys.stderr.write(f"{task}: {done}/{total}  {rate:.1f}/s  {(total - done) / rate:.0f} s left\n")
