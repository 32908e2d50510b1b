"""SIGKILL at any moment: the run goes on and ends where the uninterrupted one does, bit for bit.

`BIGGAN_KILLS` is the number of kills of each run (`make kills` sets a large one), and `BIGGAN_KILLS_SEED` chooses the
moments.
"""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from runs import MOST_SECONDS, biggan, start, wait_for, weights

KILLS, SEED = (int(os.environ.get(name, "0")) for name in ("BIGGAN_KILLS", "BIGGAN_KILLS_SEED"))
STEPS_PER_KILL = 5
"""Steps of a run for each of its kills: between two of them it gets about 3 further."""
EVERY = ["checkpoint.every_steps=2", "samples.every_steps=20"]
MOST_CHANGES = 80
"""A start changes about 30 files or folders, and a checkpoint 20."""
KILLED_AT_A_CHANGE = """
import os, signal, sys
from itertools import count

left = count(int(sys.argv.pop(1)), -1)

def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate")) and next(left) == 1:
        os.killpg(0, signal.SIGKILL)

if os.environ.get("RANK", "0") == "0":
    sys.addaudithook(hook)

from biggan.cli import main
if __name__ == "__main__":
    main()
"""
"""`biggan` that is killed, with its readers and other ranks, before it changes the Nth file or folder."""


def arguments(tiny, run, steps):
    return ["train", tiny[0], f"run.dir={run}", *tiny[2:], f"training.steps={steps}", *EVERY]


def steps_saved(run):
    return sorted(int(f.name[5:]) for f in (run / "checkpoints").glob("step_*"))


def is_saving(run):
    """Return True if a checkpoint is being written."""
    return any((run / "checkpoints").glob(".step_*"))


def steps_logged(run):
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def kill_after_steps(process, run, steps):
    """Kill it once it has logged so many steps more than now."""
    before = steps_logged(run)
    wait_for(lambda: steps_logged(run) >= before + steps, process)
    process.kill_all()


def kill_while_it_saves(process, run):
    """Kill it in the middle of writing a checkpoint: it is stopped first, to be sure that it is."""
    wait_for(lambda: not is_saving(run), process)  # what the last kill left is removed
    while True:
        wait_for(lambda: is_saving(run), process, seconds_between=0)
        os.killpg(process.pid, signal.SIGSTOP)
        if is_saving(run):
            process.kill_all()
            return
        os.killpg(process.pid, signal.SIGCONT)


@pytest.mark.slow
def test_killed_while_it_starts(tiny, tmp_path):
    """When the run folder is there, its first file, and when it says that it trains: the next start goes on."""
    run = tmp_path / "run"
    for moment in (run.exists, (run / "config.yaml").exists, (run / "metrics.jsonl").exists):
        process = start(arguments(tiny, run, 50))
        wait_for(moment, process, seconds_between=0)
        process.kill_all()
    process = start(arguments(tiny, run, 50))
    process.read_until("training ", MOST_SECONDS)
    process.kill_all()
    biggan(arguments(tiny, run, 4))
    assert steps_saved(run)[-1] == 4


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 10), (2, 5)])
def test_every_resume_continues_to_the_same_end(tiny, tmp_path, undisturbed, processes, kills):
    """Kills come while a checkpoint is written, 1 to 5 steps after the last one, and before any change of a file."""
    run, program = tmp_path / "killed", tmp_path / "killed_at_a_change.py"
    program.write_text(KILLED_AT_A_CHANGE)
    kills = KILLS or kills
    steps = STEPS_PER_KILL * kills
    command = arguments(tiny, run, steps)
    chance = random.Random(f"{SEED} {processes}")
    for kill in range(kills):
        if kill % 3 == 2:
            change = chance.randint(1, MOST_CHANGES)
            process = start([change, *command], None if processes == 1 else processes, program=program)
            assert process.wait(MOST_SECONDS) == -signal.SIGKILL, f"kill {kill}, change {change}"
            continue
        process = start(command, processes)
        kill_after_steps(process, run, chance.randint(1, 5)) if kill % 3 else kill_while_it_saves(process, run)
    print(f"{kills} kills, the last at step {steps_saved(run)[-1]} of {steps}")
    biggan(command, processes)
    assert_same_end(undisturbed(f"training.steps={steps}", *EVERY, processes=processes), run, steps)


def assert_same_end(whole: Path, run: Path, steps: int):
    """The last checkpoints are equal, and so is every number that was logged but for times."""
    name = f"checkpoints/step_{steps:08d}"
    expected, actual = weights(whole / name), weights(run / name)
    assert expected.keys() == actual.keys()
    different = [k for k in expected if not torch.equal(expected[k], actual[k])]
    assert not different
    assert (whole / name / "state.json").read_text() == (run / name / "state.json").read_text()
    expected, actual = ([*rows(folder / "metrics.jsonl")] for folder in (whole, run))
    assert [row["step"] for row in actual] == [*range(1, steps + 1)]
    assert expected == actual


def rows(metrics):
    """Yield the rows of a metrics file without their times."""
    for line in metrics.read_text().splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in ("images_per_second", "seconds")}
