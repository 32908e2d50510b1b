"""Standard output and standard error that never end a command.

A pipe's reader may have ended (`| head`), the disk under a log may be full, a terminal may be closed. What is said is
then lost; what is done is not.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from biggan.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class LossyFile(io.FileIO):
    """An open file that drops what cannot be written. `lost` is the first reason, None as long as there is none."""

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        """Return the number of bytes written or dropped; wait if the file does not block and is not ready."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.lost = self.lost or error
            return memoryview(data).nbytes
        return written


def drop_lost_output() -> None:
    """Make standard output and standard error lossy, unless a test or a notebook has replaced them."""
    # If one of the three is closed, the next file to be opened would get its number, and receive other text.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lossy(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lossy(2, sys.stderr)


def _lossy(descriptor: int, stream: TextIO | None) -> TextIO:
    """Return a lossy stream on a descriptor, with the encoding of `stream`, which is None if it was closed."""
    return io.TextIOWrapper(
        io.BufferedWriter(LossyFile(descriptor, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


def check_printed() -> None:
    """Raise InputError if standard output has lost text of a command that only prints; not if its reader has ended."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = file.lost if isinstance(file, LossyFile) else None
    if lost is not None and lost.errno != errno.EPIPE:
        raise InputError(f"standard output: {lost.strerror}; free space, or write to another file")
