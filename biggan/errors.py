"""What can go wrong for a user, and the exit code each ends with (docs/training.md lists them)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

EXIT_BAD_INPUT = 2
EXIT_NON_FINITE = 3
EXIT_DATA = 4
EXIT_CHECKPOINT = 5
EXIT_LOST = 6
EXIT_COLLAPSED = 7
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again


class StoppedRun(Exception):
    """A run that ended before its last step, in order; its message says why and how to go on."""

    exit_code = 1
    said = False
    """Whether the user has been told, or is by another process of this machine."""


class InputError(StoppedRun, ValueError):
    """Bad input. The message is one line: what (file, key or flag), why, and the mend."""

    exit_code = EXIT_BAD_INPUT


class NonFiniteError(StoppedRun):
    """A loss or gradient was NaN or infinite; the weights are those from before it."""

    exit_code = EXIT_NON_FINITE


class DataError(StoppedRun):
    """A shard is missing, or more samples are unreadable than the config allows."""

    exit_code = EXIT_DATA


class Interrupted(StoppedRun):
    """SIGTERM or SIGINT: the step was finished and a checkpoint written."""

    exit_code = EXIT_INTERRUPTED


class CheckpointError(StoppedRun):
    """A checkpoint could not be written or read."""

    exit_code = EXIT_CHECKPOINT


class CollapsedError(StoppedRun):
    """The networks are collapsing; the checkpoints from before are pinned."""

    exit_code = EXIT_COLLAPSED


class LostProcesses(StoppedRun):
    """A collective failed: another process was killed, hangs or cannot be reached."""

    exit_code = EXIT_LOST


def nearest_path(path: Path, others: Iterable[Path]) -> str:
    """`; nearest: runs/digits`, the one of `others` whose name is spelt most like that of `path`; empty if none is."""
    by_name = {other.name: other for other in sorted(others)}
    near = difflib.get_close_matches(path.name, by_name, n=1, cutoff=0.5)
    return f"; nearest: {by_name[near[0]]}" if near else ""
