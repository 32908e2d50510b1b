"""The paper's experiments as child runs: frozen networks do not change, and a child that diverges is a result."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import biggan, finish, weights

PLANTED = Path(__file__).with_name("planted.py")


def changed(child, parent, network):
    """Return the names of a network's parameters (no buffers) that differ between two checkpoints."""
    before, after = weights(parent), weights(child)
    names = [n for n in before if n.startswith(f"{network}/") and not n.endswith((".u", "_mean", "_var"))]
    return [n for n in names if not torch.equal(before[n], after[n])]


@pytest.mark.long
def test_probe_on_two_processes_with_a_planted_nan(tiny, tmp_path):
    run = tmp_path / "run"
    biggan(["train", *tiny, "training.steps=2"])
    done = finish(["probe", f"{run}@2", "--steps", "10"], 2, program=PLANTED, NAN_STEP="9")
    assert done.returncode == 0, done.stdout + done.stderr
    probes, parent = run / "probes/step_00000002_10", run / "checkpoints/step_00000002"
    with Image.open(probes / "probe.png") as figure:
        assert figure.size == (1080, 600)
    assert sorted(os.listdir(probes)) == [
        "D_frozen", "Ds_rate_doubled", "G_frozen", "Gs_rate_doubled", "Gs_rate_halved", "probe.png", "unchanged",
    ]  # fmt: skip
    last_finite = "checkpoints/step_00000008"
    assert not changed(probes / "G_frozen" / last_finite, parent, "generator")
    assert changed(probes / "G_frozen" / last_finite, parent, "discriminator")
    assert not changed(probes / "D_frozen" / last_finite, parent, "discriminator")
    assert changed(probes / "D_frozen" / last_finite, parent, "generator")
    rows = [json.loads(line) for line in (probes / "unchanged/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(3, 10))
    assert [row["non_finite_steps"] for row in rows] == [0] * 6 + [1]
