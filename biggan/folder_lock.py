"""Exclusive ownership of a folder by one process, on one host or several.

The lock is `flock` on a file in the folder. The kernel, or the server of a network file system, releases it when its
owner dies. The file names the owner, for the message that another process ends with.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from biggan.errors import InputError

LOCK = ".owner.lock"
WAIT_SECONDS = 2.0
"""Time that a killed owner, or its file server, may take to release the lock."""
NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}
_held: set[int] = set()
"""Descriptors of this process's locks. A forked child would hold them beyond its parent's death."""


class FolderLock:
    """Ownership of a folder, which is created if it does not exist. A context manager.

    Raises InputError, one line that begins with `key`, if another process owns the folder or it cannot be written.
    On exit the lock's file is removed, and the folder too if it is new and empty.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self.warning: str | None = None
        """Set if the file system has no locks; then nothing is exclusive."""
        self._descriptor = -1
        self._is_new = False

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def acquire(self) -> FolderLock:
        """Own the folder from now on, until `release` or the end of this object; nothing changes if it does already."""
        if self._descriptor in _held:
            return self
        try:
            self._is_new = not self.folder.exists()
            self._acquire(time.monotonic() + WAIT_SECONDS)
        except OSError as error:
            self.release()
            raise InputError(
                f"{self.key}: {self.folder}: cannot be written ({error.strerror or error}); "
                f"fix it, or choose another folder"
            ) from None
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def _acquire(self, until: float) -> None:
        file = self.folder / LOCK
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            if self._is_locked(descriptor) and _is_at(descriptor, file):
                break
            owner = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if time.monotonic() > until:
                raise InputError(
                    f"{self.key}: {self.folder} is in use by {_described(owner)}; wait for it to end or stop it, "
                    f"or choose another folder"
                )
            time.sleep(0.05)
        self._descriptor = descriptor
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode() + b"\n", 0)

    def _is_locked(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            self.warning = (
                f"{self.key}: the file system of {self.folder} has no locks ({error.strerror}); "
                f"start nothing else in this folder"
            )
        return True

    def release(self) -> None:
        """Give the folder up. Does nothing if it is not held."""
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            with suppress(OSError):  # the folder may have been renamed or removed
                if _is_at(self._descriptor, self.folder / LOCK):
                    (self.folder / LOCK).unlink()
            with suppress(OSError):
                os.close(self._descriptor)
            if self._is_new:
                with suppress(OSError):  # it is not empty
                    self.folder.rmdir()
        self._descriptor = -1


def _is_at(descriptor: int, file: Path) -> bool:
    """Return True if `file` is the open file; an earlier owner may have removed it, and another made a new one."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _described(owner: bytes) -> str:
    try:
        record = json.loads(owner)
        return f"process {int(record['pid'])} on {str(record['host'])[:253]!s}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _close_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
