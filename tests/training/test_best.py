"""Which checkpoints evaluation found best, and that they stay."""

import json

import pytest

from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.ring import Ring, best_steps, steps_on_disk


def measured(value, metric="fid", protocol="a"):
    return {"metric": metric, "metrics": {metric: value}, "protocol": {"identity": protocol}}


@pytest.fixture
def written(tmp_path):
    """Write the `state.json` of checkpoints: step -> evaluation."""

    def write(evaluations):
        files = []
        for step, evaluation in evaluations.items():
            files.append(tmp_path / f"{step}.json")
            files[-1].write_text(json.dumps({"step": step, "evaluation": evaluation}))
        return files

    return write


def test_the_smallest_distance_or_the_largest_score_is_best(written):
    values = {10: 9.0, 20: 3.0, 30: 5.0, 40: 3.0}
    assert best_steps(written({s: measured(v) for s, v in values.items()}), 3) == [20, 40, 30]
    assert best_steps(written({s: measured(v, "precision") for s, v in values.items()}), 2) == [10, 30]


def test_numbers_of_another_protocol_or_metric_are_not_compared(written):
    files = written({10: measured(1.0, protocol="b"), 20: measured(0.5, "kid"), 30: measured(7.0), 40: measured(8.0)})
    assert best_steps(files, 4) == [30, 40]


def test_a_data_set_may_move(written):
    moved = measured(1.0) | {"protocol": {"identity": "a", "real": "/elsewhere (train)"}}
    assert best_steps(written({10: moved, 20: measured(7.0)}), 1) == [10]


def test_checkpoints_that_were_not_measured_or_cannot_be_read_are_passed_over(written, tmp_path):
    files = written({5: measured(float("nan")), 10: measured(2.0), 20: None, 30: measured("nonsense")})
    (tmp_path / "cut.json").write_text('{"step": 40, "evalu')
    assert best_steps([*files, tmp_path / "cut.json", tmp_path / "missing.json"], 4) == [10]
    assert best_steps([], 4) == []


def test_the_best_outlive_the_ring_and_are_replaced_by_better_ones(tmp_path):
    ring, scores = Ring(1, 0, 0, 0, keep_best=2), {1: 5.0, 2: 3.0, 3: 4.0, 4: 9.0, 5: 2.0, 6: 8.0}
    kept = []
    for step, score in scores.items():
        checkpoint.save(tmp_path, step, Checkpoint({}, {"step": step, "evaluation": measured(score)}, ""))
        checkpoint.thin(tmp_path, ring, pytest.fail)
        kept.append(steps_on_disk(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 5], [2, 5, 6]]
    assert checkpoint.best(tmp_path, 1) == [5]
