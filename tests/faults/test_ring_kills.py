"""SIGKILL before every change of a file in saving, making room, thinning, pinning and going back, and at random times.

The processes are forks of this one: a kill costs milliseconds.
"""

import os
import random
import shutil
import signal
import sys
import traceback
from itertools import count

import pytest
import torch

from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.ring import Ring, pin_before, read_pins, steps_on_disk

CONTENTS = Checkpoint(
    {"generator": {"w": torch.zeros(3000)}, "ema": {"w": torch.zeros(3000)}}, {"step": 0}, "run: {}\n"
)
SIZE = checkpoint.max_size_bytes(CONTENTS)
ROOMY = Ring(keep_last=3, horizon_steps=20, keep_every_steps=0, max_bytes=9 * SIZE)
TIGHT = Ring(keep_last=3, horizon_steps=20, keep_every_steps=0, max_bytes=4 * SIZE)
CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir"}


def save(root, ring, *steps):
    writer = Writer(root, ring, lambda _: None)
    for step in steps:
        writer.start(step, CONTENTS)
        writer.wait()
    writer.close()


def pin(root):
    writer = Writer(root, ROOMY, lambda _: None)
    writer.start(20, CONTENTS)
    writer.pin(onset_step=19, good_step=18, reason="second alarm")
    writer.close()


def resume(root):
    """As `run.newest_checkpoint` begins; returns the step."""
    checkpoint.clean_up(root)
    newest = checkpoint.step_of(checkpoint.newest_complete(root, pytest.fail))
    checkpoint.quarantine_after(root, newest)
    return newest


def roll_back(root):
    """Go back to step 14; the first checkpoint of the new trajectory removes those of the abandoned one."""
    checkpoint.set_aside_after(root, 14)
    save(root, ROOMY, 15)


WORKS = {  # what is done to a folder with steps 2, ..., 18 of which 2, 10, 12, 14 are pinned; the pins that must stay
    "saves within the limit": (lambda root: save(root, ROOMY, 20, 22), ROOMY, [2, 10, 12, 14]),
    "an alarm": (pin, ROOMY, [2, 10, 12, 14]),
    "a rollback": (roll_back, ROOMY, [2, 10, 12, 14]),
    "a rollback to before a pin": (lambda root: checkpoint.set_aside_after(root, 11), ROOMY, [2, 10]),
    "a save that takes pins": (lambda root: save(root, TIGHT, 20), ROOMY, [14]),
    "another save of the newest": (lambda root: save(root, ROOMY, 18), ROOMY, [2, 10, 12, 14]),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    root = tmp_path_factory.mktemp("begun")
    save(root, ROOMY, *range(2, 16, 2))
    pin_before(root, 16, 15, "first alarm")
    save(root, ROOMY, 16, 18)
    assert {*read_pins(root).reasons} <= {*steps_on_disk(root)}
    return root


def killed(work, root, moment):
    """Do it in a process that is killed before its `moment`-th change of a file or folder; False if it has fewer."""
    child = os.fork()
    if child == 0:
        left = count(moment, -1)

        def strike():
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        before_every_change(strike)
        run_and_exit(work, root)
    return ended_by_kill(child)


def before_every_change(action):
    """Call `action` before this process changes a file or folder."""

    def hook(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            action()

    sys.addaudithook(hook)


def run_and_exit(work, root):
    code = 1
    try:
        work(root)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_by_kill(child):
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def assert_sound(root, ring, pins):
    """Every checkpoint is whole, `pins` are there, no pin is of one that is not, the limit holds with all leftovers."""
    steps, pinned = steps_on_disk(root), read_pins(root)
    assert checkpoint.newest_complete(root, pytest.fail) == root / checkpoint.folder_name(steps[-1])
    assert all(checkpoint.find_corruption(root / checkpoint.folder_name(step)) is None for step in steps)
    assert {*pins} <= {*pinned.reasons} <= {*steps}
    assert pinned.good is None or pinned.good in steps
    assert sum(f.stat().st_size for f in root.rglob("*") if f.is_file() and f.parent != root) <= ring.max_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_killed_before_every_change(begun, tmp_path, name):
    """And so is the next process, which cleans up, until it comes through."""
    work, ring, pins = WORKS[name]
    kills = 0
    for moment in count(1):
        root = shutil.copytree(begun, tmp_path / str(moment))
        whole = not killed(work, root, moment)
        kills += not whole
        assert_sound(root, ring, pins)
        for later in count(1):
            if not killed(resume, root, later):
                break
            kills += 1
        assert_sound(root, ring, pins)
        assert not [f.name for f in root.iterdir() if f.name.startswith(".") or f.name.endswith(".partial")]
        save(root, ring, steps_on_disk(root)[-1] + 2)
        assert_sound(root, ring, pins)
        shutil.rmtree(root)
        if whole:
            break
    print(f"{name}: {kills} kills, at {moment - 1} moments")
    assert moment > 5


def train_for_ever(root, chance):
    """Saves, alarms that pin the newest, returns to what the last one pinned."""
    step = resume(root)
    writer = Writer(root, ROOMY, lambda _: None)
    while True:
        step += 1
        writer.wait()
        writer.start(step, CONTENTS)
        event = chance.random()
        if event < 0.2 and len(read_pins(root).reasons) < 4:
            writer.pin(step + 1, step, "alarm")
        elif event < 0.25 and read_pins(root).good is not None:
            writer.wait()
            step = read_pins(root).good
            checkpoint.set_aside_after(root, step)


@pytest.mark.slow
def test_killed_at_random_times(tmp_path):
    """Kill one run again and again: whatever is pinned stays, since the run only returns to the newest pin.

    Each kill comes from outside, right after a random number of changes has started, also during a write.
    """
    pins, furthest = set(), 0
    save(tmp_path, ROOMY, 1)
    for seed in range(max(60, int(os.environ.get("BIGGAN_KILLS", "0")))):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            before_every_change(lambda write=write: os.write(write, b"."))
            run_and_exit(lambda root, seed=seed: train_for_ever(root, random.Random(seed)), tmp_path)
        os.close(write)
        for _ in range(random.Random(-seed).randint(1, 100)):
            assert os.read(read, 1), "it ended"
        os.kill(child, signal.SIGKILL)
        os.close(read)
        assert ended_by_kill(child)
        assert_sound(tmp_path, ROOMY, pins)
        pins = {*read_pins(tmp_path).reasons}
        furthest = max(furthest, *steps_on_disk(tmp_path))
    print(f"{furthest} steps, pinned {sorted(pins)}")
    assert pins
    assert furthest > 10
