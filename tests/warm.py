"""Commands as forks of one process that has imported torch and biggan: `warm_server.py` says what that shows."""

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

SERVER = Path(__file__).with_name("warm_server.py")
NO_THREADS = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Importing numpy and pyarrow would start some, and a fork has none of them."""


@cache
def server() -> socket.socket:
    """The control channel of this process's server, started at the first use; it ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | NO_THREADS | {"PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[theirs.fileno()],
        )
    return ours


class Command:
    """A running command that leads a session of its own, used as `subprocess.Popen` is. It ends with this object."""

    def __init__(self, request: dict, merge: bool):
        """Start it; `merge` sends standard error to `stdout` too."""
        read, write = os.pipe()
        error_read, error_write = (None, write) if merge else os.pipe()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(server(), [json.dumps(request).encode()], [write, error_write, theirs.fileno()])
        theirs.close()
        for fd in {write, error_write}:
            os.close(fd)
        self.stdout = os.fdopen(read)
        self._open = [self.stdout] if merge else [self.stdout, os.fdopen(error_read)]
        self._printed = {stream: bytearray() for stream in self._open}
        self.pid = self._receive()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; the signal's number, negative, if it was killed."""
        if self.returncode is None:
            if not select.select([self._channel], [], [], timeout)[0]:
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            self.returncode = self._receive()
            self._channel.close()
        return self.returncode

    def read_until(self, text: str, timeout: float) -> str:
        """Read standard output until `text` has been printed; return all that has been read so far."""
        until = time.monotonic() + timeout
        while text not in (printed := self._printed[self.stdout].decode(errors="replace")):
            if not self._open or not self._read(until):
                raise AssertionError(f"{text!r} was not printed: {printed}")
        return printed

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams until every process that holds them has ended; return all that they printed."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._open:
            if not self._read(until):
                raise TimeoutError(f"process {self.pid} or a child of it runs after {timeout} s: {self._printed}")
        self.wait(None if timeout is None else max(1, until - time.monotonic()))
        texts = [data.decode() for data in self._printed.values()]
        return texts[0], texts[1] if len(texts) > 1 else ""

    def _read(self, until: float) -> bool:
        """Read what is there, or comes before `until`; False if nothing does."""
        left = None if until == math.inf else max(0, until - time.monotonic())
        ready = select.select(self._open, [], [], left)[0]
        for stream in ready:
            data = os.read(stream.fileno(), 1 << 16)
            self._printed[stream] += data
            if not data:
                self._open.remove(stream)
                stream.close()
        return bool(ready)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, not to its children."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Kill the process and its children at once, and wait for its end."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def _receive(self) -> int:
        data = self._channel.recv(64)
        if not data:
            raise RuntimeError("tests/warm_server.py has ended; what it printed may say why")
        return int(data)
