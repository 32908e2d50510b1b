"""Reading processes outlive nobody."""

import os
import select
import signal
import time

from reads import plan

from biggan.data.loader import Loader
from biggan.data.stream import START


def read_one_batch_and_be_killed(folder):
    loader = Loader(plan(folder), micro_batch_size=12, cursors=[START] * 6, rank=0, world_size=1, workers=3)
    next(loader)
    time.sleep(2)  # 4 parts of each reader, 12 KB each, do not fit into one pipe
    os.kill(os.getpid(), signal.SIGKILL)


def test_readers_end_with_a_process_that_was_killed(digits):
    """Even those that are writing, to a pipe that is full and that nobody will read from again."""
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
    assert ended, "a reader still lives"
