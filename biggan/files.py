"""Writing files so that they exist completely or not at all, and reading small ones within bounds."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

MAX_BYTES = 64 * 2**20
MISSING = (FileNotFoundError, NotADirectoryError)
"""The errors that mean "not there". Any other OSError (a stale handle, no permission) says nothing about the file."""


class MalformedFile(ValueError):
    """A file that exists and is not what it should be; the message is the reason, without the path."""


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading; raise MalformedFile if it is another kind, and OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a named pipe would block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MalformedFile("is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file; raise MalformedFile if it is another kind or too large, and OSError."""
    with open_regular(file) as stream:
        return read_bounded(stream, max_bytes)


def read_bounded(stream: IO[bytes], max_bytes: int = MAX_BYTES) -> bytes:
    """Return what is left of a stream; raise MalformedFile if that is more than `max_bytes`."""
    content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise MalformedFile(f"has more than {max_bytes} bytes")
    return content


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`; after a crash at any point the old or the new file is complete."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` on exit, or deleted on an error; `path` must not exist."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for written in partial.rglob("*"):
            (sync_folder if written.is_dir() else sync_file)(written)
        sync_folder(partial)
        partial.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def append_line(path: Path, line: str) -> None:
    """Append a line and fsync; after a crash an incomplete line has no newline."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Fsync a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync a folder, which makes new names and renames in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
