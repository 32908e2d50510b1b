"""Stop a run after its current step when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from biggan.stop_signals import heeded_signals, print_now


@dataclass
class Stop:
    """The request of a signal to stop this process."""

    requested: bool = False


@contextmanager
def stop_on_signals(aloud: bool) -> Iterator[Stop]:
    """Turn the signals that stop a command into a request to stop after the current step.

    With `aloud`, SIGINT is acknowledged at once: a person is waiting. SIGTERM is not: torchrun sends it to the other
    processes when one has failed.
    """
    stop = Stop()

    def request(number: int, _frame: FrameType | None) -> None:
        if aloud and number == signal.SIGINT and not stop.requested:
            print_now("biggan: stopping after this step, with a checkpoint")
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in heeded_signals()}
    yield stop
    # Not after an error: torchrun's SIGTERM to the remaining processes must not cut their messages short.
    for number, handler in previous.items():
        signal.signal(number, handler)
