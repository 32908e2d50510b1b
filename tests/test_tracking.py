"""MLflow receives the run if it is reachable, and never delays training if it is not."""

import socket
import threading
import time

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from biggan.tracking import RUN_ID_FILE, Tracker, tracking_uri


@pytest.mark.slow
def test_resumed_run_continues_the_same_mlflow_run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir = tmp_path / "runs" / "a"
    run_dir.mkdir(parents=True)
    figure = run_dir / "grid.png"
    figure.write_bytes(b"png")
    for step, status in ((1, "KILLED"), (2, "FINISHED")):
        tracker = Tracker(run_dir, "test", pytest.fail)
        tracker.log_parameters({"model.channels": 8})
        tracker.log_metrics({"g_loss": float(step)}, step)
        tracker.log_file(figure, "samples")
        tracker.close(status)
    client = MlflowClient(tracking_uri(run_dir))
    run = client.get_run((run_dir / RUN_ID_FILE).read_text())
    assert run.data.params == {"model.channels": "8"}
    assert [m.value for m in client.get_metric_history(run.info.run_id, "g_loss")] == [1.0, 2.0]
    assert run.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(run.info.run_id, "samples")] == ["samples/grid.png"]
    assert len(client.search_runs([run.info.experiment_id])) == 1
    child_dir = tmp_path / "runs" / "b"
    child_dir.mkdir()
    child = Tracker(child_dir, "test", pytest.fail, {"parent": str(run_dir), "step": "2", "optimizer.g_lr": "1 -> 2"})
    child.log_metrics({f"sigma/G.blocks.{k}/0": float(k) for k in range(1200)}, 3)  # more than one call accepts
    child.close("FINISHED")
    child_run = client.get_run((child_dir / RUN_ID_FILE).read_text()).data
    assert child_run.tags["mlflow.parentRunId"] == run.info.run_id
    assert child_run.tags["lineage.optimizer.g_lr"] == "1 -> 2"
    assert len(child_run.metrics) == 1200
    assert (tmp_path / "runs" / "mlflow.db").exists()
    mlflow.set_tracking_uri(None)


def busy(tracker):
    """Log as a run does; return the seconds that the training thread spent."""
    start = time.monotonic()
    for step in range(100):
        tracker.log_metrics({"g_loss": 0.0}, step)
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuses", "never answers"])
def test_unreachable_server_is_reported_once(tmp_path, monkeypatch, kind):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    if kind == "refuses":
        server.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    messages = []
    tracker = Tracker(tmp_path, "test", messages.append)
    busy(tracker)
    deadline = time.monotonic() + 60
    while not messages and time.monotonic() < deadline:
        time.sleep(0.05)
    busy(tracker)
    tracker.close("FINISHED")
    assert len(messages) == 1
    assert f"MLflow (http://127.0.0.1:{port}): " in messages[0]
    assert "metrics.jsonl" in messages[0]
    server.close()


def test_full_queue_drops_entries_instead_of_blocking(tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(Tracker, "_open", lambda _: (released.wait(30), "id"))
    monkeypatch.setattr("biggan.tracking.QUEUE_LENGTH", 5)
    messages = []
    tracker = Tracker(tmp_path, "test", messages.append)
    busy(tracker)
    assert len(messages) == 1
    released.set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a #b?c%20d", "é &=;"])
def test_odd_characters_in_the_path_of_a_run_do_not_break_its_database(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("biggan.tracking.CLOSE_SECONDS", 120)
    run_dir = tmp_path / name / "run"
    run_dir.mkdir(parents=True)
    tracker = Tracker(run_dir, "test", pytest.fail)
    tracker.log_metrics({"g_loss": 1.0}, 1)
    tracker.log_text("data: {path: 'https://user:pa55word@host/x'}", "config.yaml")
    tracker.log_parameters({"data.path": "https://user:pa55word@host/x"})
    tracker.close("FINISHED")
    assert {path.name for path in run_dir.parent.iterdir()} >= {"mlflow.db", "run"}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    client = MlflowClient(tracking_uri(run_dir))
    run = client.get_run((run_dir / RUN_ID_FILE).read_text())
    assert run.data.metrics == {"g_loss": 1.0}
    assert run.data.params == {"data.path": "https://***@host/x"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"pa55word" in path.read_bytes()]


@pytest.mark.parametrize("error", ["cannot reach {uri}", "user u has the wrong password p%40ss/w0rd", "p@ss/w0rd"])
def test_a_password_in_the_uri_is_never_printed(tmp_path, monkeypatch, error):
    uri = "http://u:p%40ss/w0rd@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def fail(_tracker):
        raise OSError(error.format(uri=uri))

    monkeypatch.setattr(Tracker, "_open", fail)
    messages = []
    tracker = Tracker(tmp_path, "test", messages.append)
    tracker.log_metrics({"g_loss": 0.0}, 1)
    tracker.close("FAILED")
    assert len(messages) == 1
    assert "127.0.0.1:9" in messages[0]
    assert "w0rd" not in messages[0]
    assert "ss/" not in messages[0]
