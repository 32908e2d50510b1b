"""The checkpoints with the best scores, and that the ring keeps them."""

import json

import pytest

from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.ring import Ring, best_steps, steps_on_disk


def evaluation_of(value, metric="fid", protocol="a"):
    return {"metric": metric, "metrics": {metric: value}, "protocol": {"identity": protocol}}


@pytest.fixture
def written(tmp_path):
    """Return a function that writes the `state.json` of checkpoints: step -> evaluation."""

    def write(evaluations):
        files = []
        for step, evaluation in evaluations.items():
            files.append(tmp_path / f"{step}.json")
            files[-1].write_text(json.dumps({"step": step, "evaluation": evaluation}))
        return files

    return write


def test_the_best_score_is_the_smallest_distance_or_the_largest_precision(written):
    values = {10: 9.0, 20: 3.0, 30: 5.0, 40: 3.0}
    assert best_steps(written({s: evaluation_of(v) for s, v in values.items()}), 3) == [20, 40, 30]
    assert best_steps(written({s: evaluation_of(v, "precision") for s, v in values.items()}), 2) == [10, 30]


def test_scores_of_another_protocol_or_metric_are_not_compared(written):
    files = written(
        {
            10: evaluation_of(1.0, protocol="b"),
            20: evaluation_of(0.5, "kid"),
            30: evaluation_of(7.0),
            40: evaluation_of(8.0),
        }
    )
    assert best_steps(files, 4) == [30, 40]


def test_scores_stay_comparable_when_the_data_set_moves(written):
    moved = evaluation_of(1.0) | {"protocol": {"identity": "a", "real": "/elsewhere (train)"}}
    assert best_steps(written({10: moved, 20: evaluation_of(7.0)}), 1) == [10]


def test_missing_non_finite_and_unreadable_scores_are_skipped(written, tmp_path):
    files = written({5: evaluation_of(float("nan")), 10: evaluation_of(2.0), 20: None, 30: evaluation_of("nonsense")})
    (tmp_path / "cut.json").write_text('{"step": 40, "evalu')
    assert best_steps([*files, tmp_path / "cut.json", tmp_path / "missing.json"], 4) == [10]
    assert best_steps([], 4) == []


def test_thin_keeps_the_best_checkpoints_until_better_ones_exist(tmp_path):
    ring, scores = Ring(1, 0, 0, 0, keep_best=2), {1: 5.0, 2: 3.0, 3: 4.0, 4: 9.0, 5: 2.0, 6: 8.0}
    kept = []
    for step, score in scores.items():
        checkpoint.save(tmp_path, step, Checkpoint({}, {"step": step, "evaluation": evaluation_of(score)}, ""))
        checkpoint.thin(tmp_path, ring, pytest.fail)
        kept.append(steps_on_disk(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 5], [2, 5, 6]]
    assert checkpoint.best(tmp_path, 1) == [5]
