"""Waits that end: the store's own time-outs do not cover a connection that is gone, as behind a cut link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """What `action` returns or raises; TimeoutError if it has not ended after `seconds`.

    It runs in a thread, which is left behind when it is late: end the process with `os._exit` then.
    """
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def wait_for_other_threads(seconds: float = 5.0) -> None:
    """Until every other thread of this process sleeps, `seconds` at most: then it is safe to fork, or to end.

    CPython's fork hangs in the child if some thread is just entering or leaving Python (seen with 3.11: it holds the
    lock on the list of threads). gloo's threads do so for a moment when a collective has ended. And a process that ends
    aborts ("terminate called without an active exception") if one of them asks for Python while it is torn down.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = {}
        for stat in Path("/proc/self/task").glob("*/stat"):
            with suppress(OSError):  # it has ended
                states[stat.parent.name] = stat.read_text().rpartition(") ")[2][0]
        states.pop(str(threading.get_native_id()), None)
        if set(states.values()) <= {"S"}:
            return
        time.sleep(0.002)
