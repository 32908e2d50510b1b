"""MLflow logging on a background thread: a slow or unreachable server never slows or stops training.

`metrics.jsonl` is always complete. If MLflow misses entries, this is reported once.
"""

from __future__ import annotations

import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from biggan.errors import printable_line, without_credentials
from biggan.files import write_atomically

QUEUE_LENGTH = 10_000
CLOSE_SECONDS = 20.0
BATCH_METRICS = 1000
"""Maximum number of metrics that a server accepts in one call."""
RUN_ID_FILE = "mlflow_run_id"


class Tracker:
    """Background sender of a run's metrics, config and figures to MLflow.

    The first start creates the MLflow run and stores its id in the run folder; later starts continue it. If the server
    does not answer, `on_failure(message)` is called once and the unsent entries are dropped.
    """

    def __init__(
        self,
        run_dir: Path,
        experiment: str,
        on_failure: Callable[[str], None],
        lineage: Mapping[str, str] | None = None,
    ):
        """Start the thread. For a child run, `lineage` has its parent's folder (`parent`) and further MLflow tags."""
        self._run_dir, self._experiment, self._on_failure = run_dir, experiment, on_failure
        self._lineage = dict(lineage or {})
        self._queue: queue.Queue[Callable[[Any, str], None] | None] = queue.Queue(QUEUE_LENGTH)
        self._failed = False
        self._thread = threading.Thread(target=self._send_queued, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, row: Mapping[str, float], step: int) -> None:
        """Queue one row of metrics."""
        now = int(time.time() * 1000)

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Metric  # noqa: PLC0415

            metrics = [Metric(k, v, now, step) for k, v in row.items()]
            for start in range(0, len(metrics), BATCH_METRICS):
                client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])

        self._put(send)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Queue the resolved config; a parameter that MLflow already has keeps its first value."""

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Param  # noqa: PLC0415

            known = client.get_run(run_id).data.params
            new = {key: without_credentials(str(value)) for key, value in parameters.items() if key not in known}
            client.log_batch(run_id, params=[Param(key, value) for key, value in new.items()])

        self._put(send)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Queue a figure or text file."""
        self._put(lambda client, run_id: client.log_artifact(run_id, str(path), folder))

    def log_text(self, text: str, name: str) -> None:
        """Queue text to be stored under a file name, without the credentials of URLs."""
        self._put(lambda client, run_id: client.log_text(run_id, without_credentials(text), name))

    def close(self, status: str) -> None:
        """Set the MLflow run's status ("FINISHED", "KILLED" or "FAILED"); wait at most CLOSE_SECONDS for the queue."""
        self._put(lambda client, run_id: client.set_terminated(run_id, status))
        self._put(None)
        self._thread.join(1.0 if self._failed else CLOSE_SECONDS)
        if self._thread.is_alive():
            self._fail("too slow; the last entries are missing")

    def _put(self, job: Callable[[Any, str], None] | None) -> None:
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._fail("too slow")

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            uri = tracking_uri(self._run_dir)
            self._on_failure(
                printable_line(f"MLflow ({uri}): {reason}; entries are lost, but metrics.jsonl is complete")
            )

    def _send_queued(self) -> None:
        connection = None
        while (job := self._queue.get()) is not None:
            try:
                connection = connection or self._open()
                job(*connection)
            except Exception as error:  # any type, from a server, a database or a proxy; the next job tries again
                self._fail(short_reason(error))

    def _open(self) -> tuple[Any, str]:
        set_environment()
        # MLflow takes a second to import; do it on this thread.
        import mlflow  # noqa: PLC0415

        client = mlflow.MlflowClient(tracking_uri(self._run_dir))
        id_file = self._run_dir / RUN_ID_FILE
        if id_file.exists():
            run_id = id_file.read_text(encoding="utf-8").strip()
            try:
                client.update_run(run_id, status="RUNNING")
                return client, run_id
            except mlflow.exceptions.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise  # the server has changed: create a new run there
        tags = _environment_tags() | lineage_tags(self._lineage)
        experiment = experiment_id(client, self._experiment, self._run_dir)
        run = client.create_run(experiment, run_name=self._run_dir.name, tags=tags)
        write_atomically(id_file, run.info.run_id)
        return client, run.info.run_id


def set_environment() -> None:
    """Set MLflow's environment variables: no telemetry, few messages, one short attempt. Call it before the import.

    By default a call to a server that is down retries for minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def experiment_id(client: Any, name: str, run_dir: Path) -> str:
    """Return the id of an MLflow experiment; create it if needed. Without a server its files are beside the run."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    local = "MLFLOW_TRACKING_URI" not in os.environ
    artifacts = (run_dir.parent / "mlartifacts").resolve().as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=artifacts))


def lineage_tags(lineage: Mapping[str, str]) -> dict[str, str]:
    """Return the MLflow tags of a child run: `lineage`, and the parent's MLflow run id if its folder has one."""
    tags = {f"lineage.{key}": without_credentials(value) for key, value in lineage.items()}
    parent = Path(lineage["parent"]) / RUN_ID_FILE if lineage else None
    if parent is not None and parent.is_file():
        tags["mlflow.parentRunId"] = parent.read_text(encoding="utf-8").strip()
    return tags


def short_reason(error: Exception) -> str:
    """Return an error of MLflow on one line, without credentials: it can contain those of the URI in any spelling."""
    text = " ".join(str(error).split())
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    user_info = uri.partition("://")[2].rpartition("@")[0]
    secrets = [user_info.partition(":")[2], os.environ.get("MLFLOW_TRACKING_PASSWORD", "")]
    secrets += [os.environ.get("MLFLOW_TRACKING_TOKEN", "")]
    for secret in filter(None, secrets):
        for spelling in (secret, unquote(secret), quote(secret, safe="")):
            text = text.replace(spelling, "***")
    return printable_line(text)[:200]


def tracking_uri(run_dir: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the URI of a SQLite file beside the run folder."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    file = str((run_dir.parent / "mlflow.db").resolve())
    if not set(file) & set("?#%"):
        return f"sqlite:///{file}"
    # `?` starts parameters, and SQLAlchemy decodes `%`, in some versions: it knows how to write what it will read.
    from sqlalchemy import URL  # noqa: PLC0415  (a requirement of MLflow, and as slow to import)

    return URL.create("sqlite", database=f"file:{quote(file)}", query={"uri": "true"}).render_as_string()


def _environment_tags() -> dict[str, str]:
    import torch  # noqa: PLC0415  (already loaded during training)

    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
