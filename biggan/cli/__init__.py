"""The command line interface. This file imports nothing that takes time, so that a signal is handled from the start."""

from __future__ import annotations

import os
import sys

from biggan.cli.output import drop_lost_output
from biggan.errors import EXIT_INTERRUPTED
from biggan.stop_signals import StoppedBySignal, exit_on_signals


def main() -> None:
    """Run a command; an expected failure prints one line on standard error and exits with its own code."""
    exit_on_signals()
    drop_lost_output()
    try:
        from biggan.cli.program import run_command

        run_command()
    except StoppedBySignal:
        exit_at_once(EXIT_INTERRUPTED)


def exit_at_once(code: int) -> None:
    """End the process without the interpreter's cleanup: a thread in a collective or a rendezvous would block it, or
    abort.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
