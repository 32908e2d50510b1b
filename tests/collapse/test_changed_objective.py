"""A rollback and a child run change the loss, add a penalty with state, and change a rate; the run says so."""

import json

import pytest
import torch
from runs import biggan, weights
from safetensors.torch import load_file
from test_rollback import STEPS, planted

CHANGES = ["objective.loss=wasserstein", "objective.lecam.weight=0.3", "optimizer.d_lr=x0.5"]
KEYS = [change.partition("=")[0] for change in CHANGES]
ROLLBACK = ["collapse.on_collapse=rollback", *(f"rollback.{change}" for change in CHANGES)]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def end(run, step=14):
    """Return every tensor that training depends on at the end of a run."""
    checkpoint = run / f"checkpoints/step_{step:08d}"
    return weights(checkpoint) | load_file(checkpoint / "techniques.safetensors")


def assert_changed(run, since):
    """Check that the other loss, the penalty and its state are in force after step `since`, and not before."""
    for row in rows(run):
        assert ("d_lecam" in row, "d_accuracy_pairs" in row) == (row["step"] > since, row["step"] > since)
        assert ("d_accuracy_real" in row) == (row["step"] <= since)
    assert load_file(run / "checkpoints/step_00000014/techniques.safetensors")["lecam.real"] != 0


@pytest.mark.long
def test_a_rollback_changes_loss_penalty_and_rate_and_resumes_when_killed_in_between(tiny, tmp_path):
    arguments = [tiny[0], tiny[2], *STEPS, *ROLLBACK]
    code, output = planted([*arguments, f"run.dir={tmp_path / 'whole'}"], ALARM_STEP="12")
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if "rolled back to step 8" in line]
    assert all(key in line for key in KEYS), line
    assert_changed(tmp_path / "whole", since=8)
    run = tmp_path / "killed"
    assert planted([*arguments, f"run.dir={run}"], ALARM_STEP="12", KILL="after rollback.begin")[0] == -9
    assert planted([*arguments, f"run.dir={run}"], ALARM_STEP="12")[0] == 0
    whole, killed = end(tmp_path / "whole"), end(run)
    assert whole.keys() == killed.keys()
    assert not [name for name in whole if not torch.equal(whole[name], killed[name])]


@pytest.mark.long
def test_a_child_run_does_the_same_and_resumes(tiny, tmp_path):
    parent, whole, stopped = (tmp_path / name for name in ("run", "whole", "stopped"))
    biggan(["train", *tiny, *STEPS, "training.steps=8"])
    for child, legs in ((whole, ["training.steps=14"]), (stopped, ["training.steps=11", "training.steps=14"])):
        for leg in legs:
            said = biggan(["train", "--resume", f"{parent}@8", "--as", str(child), *CHANGES, leg])
        assert_changed(child, since=8)
    assert all(key in said for key in KEYS), said
    ends = [end(child) for child in (whole, stopped)]
    assert not [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])]
    assert json.loads((whole / "lineage.json").read_text())["changes"]["objective.loss"] == ["hinge", "wasserstein"]
