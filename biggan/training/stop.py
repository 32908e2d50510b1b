"""Stop a run after its current step when a signal asks for it."""

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
    """The request of a signal to stop this process."""

    requested: bool = False


@contextmanager
def stop_signals(aloud: bool) -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT into a request to stop after the current step.

    With `aloud`, SIGINT is acknowledged at once: a person is waiting. SIGTERM is not: torchrun sends it to the other
    processes when one has failed.
    """
    stop = Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        if aloud and number == signal.SIGINT and not stop.requested:
            # Not through the console: the signal may have interrupted a write to it.
            with suppress(OSError):
                os.write(2, HEARD)
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    yield stop
    # Not after an error: torchrun's SIGTERM to the remaining processes must not cut their messages short.
    for number, handler in previous.items():
        signal.signal(number, handler)
