"""How a command that fails ends: one line on standard error, and its own exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from biggan.errors import LostProcesses, StoppedRun

SECONDS_FOR_THE_FIRST = 10
"""By how much processes of one machine, started together, can part before they fail in the same way."""


def say(error: StoppedRun) -> int:
    """Say why it ended, once; return the exit code."""
    if not error.said:
        if not isinstance(error, LostProcesses):
            _let_the_first_speak()
        sys.stderr.write(f"biggan: {error}\n")
    leave_exit_code(error.exit_code)
    return error.exit_code


def _let_the_first_speak() -> None:
    """One line per machine: what fails in this process has failed, or will, in the machine's first one too.

    That one speaks, and torchrun then ends this one. If it does not (it has a GPU, and this process has none), this
    process goes on, and speaks.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_FOR_THE_FIRST)


def leave_exit_code(code: int) -> None:
    """Tell launch/torchrun.sh: torchrun restarts whatever failed, and at last ends with 1 itself."""
    if path := os.environ.get("BIGGAN_EXIT_CODES"):
        with suppress(OSError), Path(path).open("a") as file:  # a full disk may be what has just been said
            file.write(f"{code}\n")
