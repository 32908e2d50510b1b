import json

from safetensors.torch import load_file

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


def test_resuming_between_two_logged_steps_changes_no_logged_number(run_command, tiny, tmp_path):
    """Stopped at step 3 of a log every 5: rows and the monitor's history equal those of the uninterrupted run."""
    arguments = ["data.workers=0", "training.log_every_steps=5", "checkpoint.every_steps=100"]
    for folder, stops in (("stopped", (3, 7, 10)), ("undisturbed", (10,))):
        for steps in stops:
            command = ["train", tiny[0], tiny[2], f"run.dir={tmp_path / folder}", *arguments, f"training.steps={steps}"]
            code, output = run_command(*command)
            assert code == 0, output
    rows, histories = zip(*(logged(tmp_path / folder) for folder in ("stopped", "undisturbed")), strict=True)
    assert [row["step"] for row in rows[0]] == [5, 10]
    assert rows[0] == rows[1]
    assert histories[0] == histories[1]


def logged(run):
    """Return the rows of a run's metrics without its times, and the monitor's history in its last checkpoint."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]
    history = load_file(run / "checkpoints" / "step_00000010" / "history.safetensors")
    return rows, {name: values.tolist() for name, values in history.items()}
