"""The log of a run without a terminal: a line after the first step, and a remaining time that fits the rate."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from biggan.errors import CheckpointError
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.metrics import Metrics
from biggan.runs.ring import Ring
from biggan.training import run_logger
from biggan.training.run_logger import RunLogger


class Clock:
    """Steps take what the test says."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_logger, "time", clock)
    return clock


def begun(folder, steps, log_every, step=0):
    out = io.StringIO()
    made = RunLogger(folder, Console(file=out), Metrics(folder / "metrics.jsonl", step), None, None, steps, log_every)
    made.start_clock(step)
    return made, out


@pytest.mark.parametrize(
    ("first", "log_every", "steps", "said"),
    [
        (1, 50, 900, "step 1/900 after 4.2 s; next line at step 50\n"),
        (321, 50, 900, "step 321/900 after 4.2 s; next line at step 350\n"),
        (1, 50, 30, "step 1/30 after 4.2 s; next line at step 30\n"),
        (1, 1, 900, ""),
        (350, 50, 900, ""),
    ],
)
def test_the_first_step_is_a_sign_of_life_and_no_row(tmp_path, clock, first, log_every, steps, said):
    made, out = begun(tmp_path, steps, log_every, first - 1)
    clock.now = 4.2
    made.advance(first)
    clock.now = 6.0
    if first < steps:
        made.advance(first + 1)
    assert out.getvalue() == said
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_the_time_left_is_that_of_recent_rows(tmp_path, clock):
    made, out = begun(tmp_path, 1000, 50)
    clock.now = 100.0  # starting up
    made.advance(1)
    for step in range(2, 401):
        clock.now += 1.0
        made.advance(step)
        if step == 100:
            clock.now += 300.0
            made.print_untimed("measured", 300.0)
        if step % 50 == 0:
            made.log(step, 64, {})
    left = re.findall(r"(\d:\d\d:\d\d) left", out.getvalue())
    assert left[0] == "0:15:50"  # 950 steps of a second
    assert left[-1] == "0:10:00"  # 600: what was measured at step 100 is long ago
    assert int(left[2].split(":")[1]) > 30  # at step 150 it was not
    assert out.getvalue().count("64.0 images/s") == 7  # all rows but that of the first


def test_a_run_that_ends_in_its_first_step_can_log_it(tmp_path, clock):
    made, out = begun(tmp_path, 100, 50)
    clock.now = 2.0
    made.advance(1)
    clock.now = 3.0
    made.log(1, 64, {})
    assert "step 1/100 " in out.getvalue()


class Tracker:
    """Records how the MLflow run ended."""

    status = "RUNNING"

    def close(self, status):
        self.status = status


def test_a_disk_that_is_full_to_the_end_does_not_leave_mlflow_running(tmp_path):
    """Closing the metrics writes again what could not be written before."""
    tracker, metrics = Tracker(), Metrics(tmp_path / "metrics.jsonl", 0)
    metrics._file = Path("/dev/full").open("w")  # noqa: SIM115  (its owner closes it)
    with pytest.raises(OSError, match="No space"):
        metrics.write({"step": 1})
    writer = Writer(tmp_path, Ring(1, 1, 0, 0), pytest.fail)
    made = RunLogger(tmp_path, Console(file=io.StringIO()), metrics, writer, tracker, 1, 1)
    with pytest.raises(CheckpointError), made:
        raise CheckpointError("a full disk")
    assert tracker.status == "FAILED"
