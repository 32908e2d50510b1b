"""Reader processes end with their parent process."""

import fcntl
import os
import select
import signal
import sys
import termios
import time

from reads import plan

from biggan.data.loader import Loader
from biggan.data.stream import START


def read_one_batch_and_be_killed(folder):
    loader = Loader(plan(folder), micro_batch_size=12, cursors=[START] * 6, rank=0, world_size=1, workers=3)
    next(loader)
    # 4 parts per reader, 12 KB each, do not fit into one pipe of 64 KB.
    pipe = loader._parts._worker_result_queue._reader.fileno()
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) < 48_000:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def test_readers_end_when_their_parent_is_killed(digits):
    """Also readers that are blocked in a write to a full pipe that nobody reads any more."""
    readable, held_by_all = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            read_one_batch_and_be_killed(digits)
        finally:
            os._exit(1)
    os.close(held_by_all)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    ended, _, _ = select.select([readable], [], [], 60)
    os.close(readable)
    if not ended:
        os.killpg(child, signal.SIGKILL)
    assert ended, "a reader is still running"
