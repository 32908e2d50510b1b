"""Progress of long work that names itself: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Left

Tick = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, of how much): what rank 0 shows while it lasts."""
LINE_EVERY_SECONDS = 15.0


def silent(_what: str, _done: int, _of: int) -> None:
    """The `Tick` of the other ranks."""


class Meter:
    """Called with (what is being done, images done, of how many); a context manager. Shows rate and time left."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        rate = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), Left())
        self._bar = Progress(*columns, *rate, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None
        self._what, self._first, self._done, self._since, self._said_at = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if what != self._what or done < self._done:  # the same work, done again, has a rate of its own
            self._what, self._first, self._since, self._said_at = what, done, now, now
            self._task = self._bar.add_task(what, total=of, rate="")
        self._done = done
        rate = (done - self._first) / (now - self._since) if now > self._since else 0.0
        assert self._task is not None, "begun above"
        self._bar.update(self._task, completed=done, rate=f"{rate:.1f}/s" if rate else "")
        if not self._console.is_terminal and rate and (now - self._said_at > LINE_EVERY_SECONDS or done == of):
            self._said_at = now
            sys.stderr.write(f"{what}: {done}/{of}  {rate:.1f}/s  {(of - done) / rate:.0f} s left\n")
