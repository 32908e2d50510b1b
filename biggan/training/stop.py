"""A stop that a signal asks for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether a signal asked this process to stop."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask for a stop after the step instead of ending the process."""
    stop = Stop()

    def request(_signal: int, _frame: FrameType | None) -> None:
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    yield stop
    # Not after an error: torchrun's SIGTERM to those that are left must not cut short what they have to say.
    for number, handler in previous.items():
        signal.signal(number, handler)
