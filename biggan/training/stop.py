"""A stop that a signal asks for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

HEARD = b"\nbiggan: stopping after this step, with a checkpoint\n"


@dataclass
class Stop:
    """Whether a signal asked this process to stop."""

    requested: bool = False


@contextmanager
def stop_signals(aloud: bool) -> Iterator[Stop]:
    """Let SIGTERM and SIGINT ask for a stop after the step and not end the process; `aloud` answers SIGINT at once.

    SIGTERM has nobody who waits for words, and torchrun sends it when another process has failed.
    """
    stop = Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        if aloud and number == signal.SIGINT and not stop.requested:
            # Not through the console: the signal may have come while it was writing.
            with suppress(OSError):
                os.write(2, HEARD)
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    yield stop
    # Not after an error: torchrun's SIGTERM to those that are left must not cut short what they have to say.
    for number, handler in previous.items():
        signal.signal(number, handler)
