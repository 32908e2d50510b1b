"""A run that measures its averaged generator: the same numbers as `biggan eval`, the best kept, and nothing moved."""

import json

import pytest
import torch
import torchvision
from runs import biggan, weights

from biggan.runs import checkpoint


@pytest.mark.long
def test_scores_are_those_of_eval_and_the_run_is_not_moved(tiny, digits, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "shufflenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), file)
    features = ["evaluation.features=torchvision:shufflenet_v2_x0_5", f"evaluation.weights={file}"]
    asked = [*features, "evaluation.every_steps=2", "evaluation.num_images=40", "evaluation.metric=kid"]
    ring = ["checkpoint.keep_last=1", "checkpoint.horizon_steps=0"]
    output = biggan(["train", *tiny, *asked, *ring])
    run, root = tmp_path / "run", tmp_path / "run/checkpoints"
    assert "step 2: kid" in output
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["evaluation/kid"] for row in rows if "evaluation/kid" in row}
    assert list(measured) == [2, 4, 6]
    best = min(measured, key=measured.__getitem__)
    assert checkpoint.best(root, 1) == [best]
    assert sorted(f.name for f in root.iterdir()) == sorted({f"step_{step:08d}" for step in (best, 6)})

    out = tmp_path / "eval.json"
    by_hand = ["--features", "torchvision:shufflenet_v2_x0_5", "--weights", str(file), "--num-images", "40"]
    biggan(["eval", f"{run}@best", "--data", str(digits), *by_hand, "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    state = json.loads((root / f"step_{best:08d}" / "state.json").read_text())
    assert state["evaluation"]["metrics"] == pytest.approx(result["metrics"], rel=1e-4)  # channels last in training
    assert state["evaluation"]["protocol"] == result["protocol"]

    plain = ["train", tiny[0], tiny[2], f"run.dir={tmp_path / 'plain'}"]
    biggan(plain)
    expected, actual = (weights(r / "checkpoints/step_00000006") for r in (tmp_path / "plain", run))
    assert expected.keys() == actual.keys()
    # History alone may differ: nothing that is measured is part of it, so not even that does.
    assert not [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert "step 7: kid" in biggan([*plain, *asked, "training.steps=7"]), "a run may begin to be measured"
