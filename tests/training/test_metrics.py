import json

from biggan.runs.metrics import Metrics


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_resuming_from_a_checkpoint_drops_later_and_truncated_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = Metrics(path, 0)
    for step in (2, 4, 6, 8):
        first.write({"step": step})
    first.close()
    path.write_text(path.read_text() + '{"step": 1')  # truncated by a kill
    second = Metrics(path, 5)
    assert steps(path) == [2, 4]
    second.write({"step": 6})
    second.close()
    assert steps(path) == [2, 4, 6]
