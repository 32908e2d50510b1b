"""The same run on one process and on several."""

import json
import re

import pytest
import torch
from runs import biggan, weights

PAPER = ["optimizer.g_lr=5e-5", "optimizer.d_lr=2e-4"]


def final_weights(run):
    (checkpoint,) = sorted((run / "checkpoints").iterdir())[-1:]
    return weights(checkpoint)


def trained(digits, preset, run, processes, *overrides):
    biggan(
        ["train", str(preset), f"run.dir={run}", f"data.path={digits}", "training.steps=3", *PAPER, *overrides],
        processes=processes,
    )
    return final_weights(run)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["training.accumulation=2", "training.batch_size=24"]])
def test_two_and_three_processes_walk_the_path_of_one(tiny, digits, tmp_path, overrides):
    preset = tiny[0]
    one = trained(digits, preset, tmp_path / "one", 1, "model.channels=4", *overrides)
    for processes in (2, 3):
        many = trained(digits, preset, tmp_path / f"many{processes}", processes, "model.channels=4", *overrides)
        assert one.keys() == many.keys()
        for file in ("generator", "discriminator", "ema"):
            parameters = [k for k in one if k.startswith(file) and not re.search(r"running_|\.u$", k)]
            diff = torch.cat([(one[k] - many[k]).abs().flatten() for k in parameters])
            assert diff.mean() <= 1e-6, f"{file} on {processes}: {diff.mean()}"
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "many2")]
    for key in ("d_loss_real", "d_loss_fake", "g_loss", "d_grad_norm"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3), key


@pytest.mark.slow
def test_a_run_saved_on_two_processes_goes_on_on_one_with_the_same_data(tiny, digits, tmp_path):
    whole = trained(digits, tiny[0], tmp_path / "whole", 1, "training.steps=6")
    trained(digits, tiny[0], tmp_path / "moved", 2)
    moved = trained(digits, tiny[0], tmp_path / "moved", 1, "training.steps=6")
    states = [
        json.loads((tmp_path / n / "checkpoints/step_00000006/state.json").read_text()) for n in ("whole", "moved")
    ]
    assert states[0] == states[1]
    diff = torch.cat([(whole[k] - moved[k]).abs().flatten() for k in whole if k.startswith("generator")])
    assert diff.mean() <= 1e-5
