"""Bounded waits. The store's own timeouts do not cover a dead connection, such as one over a cut link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def run_with_timeout(seconds: float, action: Callable[[], T]) -> T:
    """Return or raise the result of `action`; raise TimeoutError after `seconds`.

    `action` runs in a thread, which keeps running after the timeout: end the process with `os._exit` then.
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
    """Wait at most `seconds` until all other threads of this process sleep; it is then safe to fork or to exit.

    CPython's fork hangs in the child if a thread is entering or leaving Python (observed with 3.11: it holds the lock
    of the thread list). gloo's threads do so briefly after a collective. Also, a process aborts at exit ("terminate
    called without an active exception") if such a thread enters Python during finalization.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = {}
        for stat in Path("/proc/self/task").glob("*/stat"):
            with suppress(OSError):  # the thread has ended
                states[stat.parent.name] = stat.read_text().rpartition(") ")[2][0]
        states.pop(str(threading.get_native_id()), None)
        if set(states.values()) <= {"S"}:
            return
        time.sleep(0.002)
