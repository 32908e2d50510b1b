"""The same run on one process and on several."""

import json

import pytest
from runs import DRIFT32, INTERVENTIONS, assert_near, biggan, weights

PAPER = ["optimizer.g_lr=5e-5", "optimizer.d_lr=2e-4"]
WATCHED = ["collapse.spectrum_every_steps=1", "collapse.quality_every_steps=1"]


def final_weights(run):
    (checkpoint,) = sorted((run / "checkpoints").iterdir())[-1:]
    return weights(checkpoint)


def trained(digits, preset, run, processes, *overrides):
    biggan(
        [
            "train",
            str(preset),
            f"run.dir={run}",
            f"data.path={digits}",
            "training.steps=3",
            *PAPER,
            *WATCHED,
            *overrides,
        ],
        processes=processes,
    )
    return final_weights(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("several", "overrides"),
    [((2, 3), []), ((2,), ["training.accumulation=2", "training.batch_size=24"]), ((2,), INTERVENTIONS)],
)
def test_two_and_three_processes_have_the_trajectory_of_one(tiny, digits, tmp_path, several, overrides):
    preset = tiny[0]
    one = trained(digits, preset, tmp_path / "one", 1, "model.channels=4", *overrides)
    for processes in several:
        many = trained(digits, preset, tmp_path / f"many{processes}", processes, "model.channels=4", *overrides)
        assert_near(one, many, DRIFT32)
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "many2")]
    assert rows[0].keys() == rows[1].keys()
    assert {"d_logit_real_spread", "sigma/G.linear/0", "diversity/ema", "d_gradient"} <= rows[0].keys()
    for key in rows[0].keys() - {"seconds", "images_per_second"}:
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-3, abs=1e-3), key


@pytest.mark.long
def test_run_with_batchnorm_groups_resumes_only_with_groups_of_as_many_images(tiny, tmp_path):
    whole, moved = ([tiny[0], f"run.dir={tmp_path / name}", tiny[2], *PAPER] for name in ("whole", "moved"))
    sizes = ["model.channels=4", "training.batch_size=24", "data.streams=12"]
    group = "distributed.batchnorm_group_size"
    biggan(["train", *whole, *sizes, f"{group}=2", "training.steps=4"], processes=4)
    biggan(["train", *moved, *sizes, f"{group}=2", "training.steps=2"], processes=4)
    refused = biggan(["train", *moved, *sizes, f"{group}=2", "training.steps=4"], processes=2, expect=1)
    for part in (" 12 images", " 2 of 2 processes", " 24;", f"{group}=1"):
        assert part in refused
    biggan(["train", *moved, *sizes, f"{group}=1", "training.steps=4"], processes=2)
    assert_near(*(final_weights(tmp_path / name) for name in ("whole", "moved")), DRIFT32)
