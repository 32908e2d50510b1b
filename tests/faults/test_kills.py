"""SIGKILL at random moments: the run goes on and ends where the uninterrupted one does, bit for bit."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import biggan, start, weights

STEPS = 60


def arguments(tiny, run):
    changes = [f"run.dir={run}", f"training.steps={STEPS}", "checkpoint.every_steps=2", "samples.every_steps=20"]
    return ["train", *tiny, *changes]


def kill_group(process):
    """SIGKILL to torchrun, its workers and their readers at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def steps_saved(run):
    return sorted(int(f.name[5:]) for f in (run / "checkpoints").glob("step_*"))


def kill_at_a_random_moment(process, run, random_source):
    """After it has started to train: at any moment, or while a checkpoint is being written (every second step)."""
    before = steps_saved(run)
    while steps_saved(run) == before and process.poll() is None:
        time.sleep(0.01)
    if random_source.random() < 0.5:
        time.sleep(random_source.uniform(0, 0.4))
    else:
        while not any((run / "checkpoints").glob(".step_*")) and process.poll() is None:
            pass
    partial = any((run / "checkpoints").glob(".step_*"))
    alive = process.poll() is None
    kill_group(process)
    return alive, partial


@pytest.mark.slow
def test_killed_while_it_starts(tiny, tmp_path):
    """Before, while and after the run folder is made, and wherever the last kill found it: the next start goes on."""
    run = tmp_path / "run"
    process = start(arguments(tiny, run))
    while not run.exists():
        pass
    kill_group(process)
    for seconds in (1.0, 3.0):
        process = start(arguments(tiny, run))
        time.sleep(seconds)
        kill_group(process)
    biggan(arguments(tiny, run))
    assert steps_saved(run)[-1] == STEPS


@pytest.mark.long
@pytest.mark.parametrize(("processes", "kills"), [(1, 10), (2, 5)])
def test_every_resume_continues_to_the_same_end(tiny, tmp_path, processes, kills):
    biggan(arguments(tiny, tmp_path / "whole"), processes)
    killed, during_save = 0, 0
    run = tmp_path / "killed"
    random_source = random.Random(processes)
    for _ in range(kills):
        process = start(arguments(tiny, run), processes)
        alive, partial = kill_at_a_random_moment(process, run, random_source)
        killed += alive
        during_save += partial
    assert killed == kills, "the run must not end before it is killed"
    assert during_save, "no kill met a checkpoint that was being written"
    biggan(arguments(tiny, run), processes)
    print(f"{processes} processes: {killed} kills, {during_save} during a checkpoint write")
    assert_same_end(tmp_path / "whole", run)


def assert_same_end(whole: Path, run: Path):
    name = f"checkpoints/step_{STEPS:08d}"
    expected, actual = weights(whole / name), weights(run / name)
    assert expected.keys() == actual.keys()
    different = [k for k in expected if not torch.equal(expected[k], actual[k])]
    assert not different
    assert (whole / name / "state.json").read_text() == (run / name / "state.json").read_text()
    for folder in (whole, run):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    losses = [
        [json.loads(line)["g_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, run)
    ]
    assert losses[0] == losses[1]
