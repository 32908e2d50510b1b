"""Processes that read or pack for a parent: they leave signals to it, and end when it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from biggan.stop_signals import STOP_SIGNALS


def tie_to_parent(_worker: int = 0) -> None:
    """Ignore signals, which a terminal or a scheduler sends to all processes; exit when the parent does."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent has ended; if it was killed, a read or write of their pipe would block forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child process"
    parent.join()
    os._exit(1)
