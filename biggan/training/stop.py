"""Stop a run after its current step when a signal asks for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from biggan.errors import STOP_SIGNALS

HEARD = b"\nbiggan: stopping after this step, with a checkpoint\n"


@dataclass
class Stop:
    """The request of a signal to stop this process."""

    requested: bool = False


@contextmanager
def stop_signals(aloud: bool) -> Iterator[Stop]:
    """Turn STOP_SIGNALS into a request to stop after the current step; a hang-up that is ignored (nohup) stays so.

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

    heeded = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, request) for number in heeded}
    yield stop
    # Not after an error: torchrun's SIGTERM to the remaining processes must not cut their messages short.
    for number, handler in previous.items():
        signal.signal(number, handler)
