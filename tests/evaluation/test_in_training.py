"""A run that evaluates its EMA generator: metrics equal `biggan eval`, the best is kept, training is unaffected."""

import json
import shutil

import pytest
import torch
import torchvision
from runs import biggan, weights

from biggan.runs import checkpoint


@pytest.mark.long
def test_metrics_equal_eval_and_training_is_unaffected(tiny, digits, tmp_path, undisturbed):
    torch.manual_seed(0)
    file = tmp_path / "shufflenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), file)
    features = ["evaluation.features=torchvision:shufflenet_v2_x0_5", f"evaluation.weights={file}"]
    evaluation = [*features, "evaluation.every_steps=2", "evaluation.num_images=40", "evaluation.metric=kid"]
    ring = ["checkpoint.keep_last=1", "checkpoint.horizon_steps=0"]
    output = biggan(["train", *tiny, *evaluation, *ring])
    run, root = tmp_path / "run", tmp_path / "run/checkpoints"
    assert "step 2: kid" in output
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["evaluation/kid"] for row in rows if "evaluation/kid" in row}
    assert list(measured) == [2, 4, 6]
    best = min(measured, key=measured.__getitem__)
    assert checkpoint.best(root, 1) == [best]
    assert sorted(f.name for f in root.iterdir()) == sorted({f"step_{step:08d}" for step in (best, 6)})

    out = tmp_path / "eval.json"
    flags = ["--features", "torchvision:shufflenet_v2_x0_5", "--weights", str(file), "--num-images", "40"]
    biggan(["eval", f"{run}@best", "--data", str(digits), *flags, "--out", str(out)])
    (result,) = json.loads(out.read_text())["results"]
    state = json.loads((root / f"step_{best:08d}" / "state.json").read_text())
    # Training uses channels-last: other kernels, and features that differ by float32's rounding over 50 layers.
    assert state["evaluation"]["metrics"] == pytest.approx(result["metrics"], rel=1e-4)
    assert state["evaluation"]["protocol"] == result["protocol"]

    shutil.copytree(undisturbed(), tmp_path / "plain")
    plain = ["train", tiny[0], tiny[2], f"run.dir={tmp_path / 'plain'}"]
    expected, actual = (weights(r / "checkpoints/step_00000006") for r in (tmp_path / "plain", run))
    assert expected.keys() == actual.keys()
    # Not even the collapse monitor's history differs, because evaluation metrics are not part of it.
    assert not [name for name in expected if not torch.equal(expected[name], actual[name])]
    assert "step 7: kid" in biggan([*plain, *evaluation, "training.steps=7"]), "a resumed run may add evaluation"
