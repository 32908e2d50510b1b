"""Expected failures and their exit codes, which docs/training.md lists."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, changes of the writing direction, and lone surrogates."""
CREDENTIALS = (
    (re.compile(r"(:/{1,3})(?:[^\s/@?#]+|[^\s/@:]+:\S*)@"), r"\1***@"),
    (
        re.compile(
            r"([?&;][\w.-]*(?:token|passw|secret|signature|credential|key|sig)[\w.-]*=)[^&;\s'\"]+", re.IGNORECASE
        ),
        r"\1***",
    ),
)
"""Patterns of credentials in URLs: `user:password@`, and parameters such as `?token=...`; and their replacements."""
EXIT_BAD_INPUT = 2
EXIT_NON_FINITE = 3
EXIT_DATA = 4
EXIT_CHECKPOINT = 5
EXIT_LOST = 6
EXIT_COLLAPSED = 7
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL in sysexits.h: temporary, run the same command again


class StoppedRun(Exception):
    """A controlled stop before the last step; the message states the reason and the fix."""

    exit_code = 1
    reported = False
    """True if the message has been printed, or is printed by another process of this machine."""

    def __init__(self, message: str = ""):
        super().__init__(printable_line(message))


class InputError(StoppedRun, ValueError):
    """Bad input. The message is one line: the file, key or flag, the reason, and the fix."""

    exit_code = EXIT_BAD_INPUT


class NonFiniteError(StoppedRun):
    """A NaN or infinite loss or gradient; the weights are those from before it."""

    exit_code = EXIT_NON_FINITE


class DataError(StoppedRun):
    """A missing shard, or more unreadable samples than the config allows."""

    exit_code = EXIT_DATA


class Interrupted(StoppedRun):
    """A stop by a signal, after the current step and a checkpoint."""

    exit_code = EXIT_INTERRUPTED


class CheckpointError(StoppedRun):
    """A checkpoint that could not be written or read."""

    exit_code = EXIT_CHECKPOINT


class CollapsedError(StoppedRun):
    """Collapsing networks; the checkpoints from before the collapse are pinned."""

    exit_code = EXIT_COLLAPSED


class LostProcesses(StoppedRun):
    """A failed collective: another process was killed, hangs or is unreachable."""

    exit_code = EXIT_LOST


def from_os_error(error: OSError) -> InputError | None:
    """Return the one line for a file that cannot be used; None for errors that name no file, such as a closed pipe."""
    if error.filename is None:
        return None
    return InputError(f"{error.filename}: {error.strerror or error}; fix it and rerun the same command")


def printable_line(text: object) -> str:
    """Return text for a terminal, a log or a file: on one line, without control characters and without credentials.

    Text from outside (class names, file names, other programs' errors) could otherwise send commands to the terminal.
    """
    return UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], without_credentials(str(text)))


def without_credentials(text: str) -> str:
    """Return the text with the credentials of every URL in it replaced by `***`."""
    for pattern, replacement in CREDENTIALS:
        text = pattern.sub(replacement, text)
    return text


def nearest_path(path: Path, others: Iterable[Path]) -> str:
    """Return `; nearest: runs/digits` with the path in `others` whose name is most similar, or an empty string."""
    by_name = {other.name: other for other in sorted(others)}
    near = difflib.get_close_matches(path.name, by_name, n=1, cutoff=0.5)
    return f"; nearest: {by_name[near[0]]}" if near else ""
