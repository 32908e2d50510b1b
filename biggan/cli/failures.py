"""Reporting of an expected failure: one line on standard error, and its exit code."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from biggan.errors import LostProcesses, StoppedRun

FIRST_PROCESS_HEAD_START_SECONDS = 10
"""Largest delay between processes of one machine, started together, that fail for the same reason."""


def report_failure(error: StoppedRun) -> int:
    """Print the message unless it has been reported; return the exit code."""
    if not error.reported:
        if not isinstance(error, LostProcesses):
            _wait_for_first_process()
        sys.stderr.write(f"biggan: {error}\n")
    record_exit_code(error.exit_code)
    return error.exit_code


def _wait_for_first_process() -> None:
    """Wait on local ranks above 0, so that each machine prints one line.

    Most failures occur in the machine's first process too. It prints the line, and torchrun then ends this process.
    If the first process does not fail (for example because only this one has no GPU), this process prints the line.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(FIRST_PROCESS_HEAD_START_SECONDS)


def record_exit_code(code: int) -> None:
    """Write the exit code for launch/torchrun.sh; torchrun restarts failed workers and finally exits with 1 itself."""
    if path := os.environ.get("BIGGAN_EXIT_CODES"):
        with suppress(OSError), Path(path).open("a") as file:  # a full disk may be the failure
            file.write(f"{code}\n")
