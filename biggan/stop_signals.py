"""The signals that stop a command, and what they do before a run has started to train."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from biggan.errors import EXIT_INTERRUPTED

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that stop a command with EXIT_INTERRUPTED: of a scheduler, of Ctrl-C, of a terminal that is closed."""


class StoppedBySignal(BaseException):
    """Raised by the handler of `exit_on_signals`. No library takes it for an error of its own."""


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that stop this process: STOP_SIGNALS without a hang-up that is ignored, as under nohup."""
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]


def exit_on_signals() -> None:
    """Let the signals end this process with EXIT_INTERRUPTED, and one line from the first process of each machine.

    They raise StoppedBySignal, so that what is open is closed. During an import, whose code may take it for a failure,
    and on a second signal, the process ends at once.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped and os.environ.get("LOCAL_RANK", "0") == "0":
            print_now(f"biggan: stopped by {signal.Signals(number).name}; rerun the same command")
        if stopped or _is_importing(frame):
            os._exit(EXIT_INTERRUPTED)
        stopped = True
        raise StoppedBySignal

    for number in heeded_signals():
        signal.signal(number, stop)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def print_now(line: str) -> None:
    """Print a line on standard error from a signal handler, which may have interrupted another write to it."""
    with suppress(OSError):
        os.write(2, b"\n" * os.isatty(2) + line.encode() + b"\n")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Deliver the signals only after the block. Processes that are started in it never receive them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
