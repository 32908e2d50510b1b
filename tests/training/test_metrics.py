import json

from biggan.runs.metrics import Metrics


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_going_on_from_a_checkpoint_leaves_no_duplicate(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = Metrics(path, 0)
    for step in (2, 4, 6, 8):
        first.write({"step": step})
    first.close()
    path.write_text(path.read_text() + '{"step": 1')  # cut off by a kill
    second = Metrics(path, 5)
    assert steps(path) == [2, 4]
    second.write({"step": 6})
    second.close()
    assert steps(path) == [2, 4, 6]
