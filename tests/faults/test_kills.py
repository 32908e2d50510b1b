"""SIGKILL at any moment: the run goes on and ends where the uninterrupted one does, bit for bit."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from runs import MOST_SECONDS, biggan, start, wait_for, weights

STEPS = 50
EVERY = ["checkpoint.every_steps=2", "samples.every_steps=20"]


def arguments(tiny, run):
    return ["train", tiny[0], f"run.dir={run}", *tiny[2:], f"training.steps={STEPS}", *EVERY]


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
        process = start(arguments(tiny, run))
        wait_for(moment, process, seconds_between=0)
        process.kill_all()
    process = start(arguments(tiny, run))
    process.read_until("training ", MOST_SECONDS)
    process.kill_all()
    biggan([*arguments(tiny, run), "training.steps=4"])
    assert steps_saved(run)[-1] == 4


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 10), (2, 5)])
def test_every_resume_continues_to_the_same_end(tiny, tmp_path, undisturbed, processes, kills):
    """Half of the kills come while a checkpoint is written, the others 1 to 5 steps after the last one."""
    run = tmp_path / "killed"
    random_source = random.Random(processes)
    for kill in range(kills):
        process = start(arguments(tiny, run), processes)
        kill_after_steps(process, run, random_source.randint(1, 5)) if kill % 2 else kill_while_it_saves(process, run)
    biggan(arguments(tiny, run), processes)
    assert_same_end(undisturbed(f"training.steps={STEPS}", *EVERY, processes=processes), run)


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
