"""The threads of this process that are not ours."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path


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
