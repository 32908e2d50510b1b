"""`launch/slurm.sbatch` under Slurm: stopped before its limit it goes on; a failed or cancelled job does not."""

import re

import pytest
from runs import TINY
from slurm import Slurm

GENEROUS_SECONDS = 300


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def test_stopped_before_its_time_limit_it_is_requeued_and_finishes(
    slurm, preset, tmp_path, wait_for_step, assert_same_end
):
    """It is longer than any limit until it has been stopped; then 20 steps more are enough."""
    config, run, output = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "output"
    config.write_text(TINY.replace("steps: 6", "steps: 100000"))
    number = slurm.submit(["--time=60", "--signal=B:USR1@120"], [str(config), *preset[1:], f"run.dir={run}"], output)
    wait_for_step(run, 3, lambda: slurm.job(number).state in ("COMPLETED", "FAILED"))
    slurm.leave_minutes(number, 2)
    job = slurm.wait(number, "PENDING", "COMPLETED", "FAILED", "TIMEOUT", timeout_seconds=GENEROUS_SECONDS)
    assert job.restarts == 1, output.read_text()
    stopped_after = int(re.search(r"stopped by a signal after step (\d+), checkpoint", output.read_text())[1])
    config.write_text(TINY.replace("steps: 6", f"steps: {stopped_after + 20}"))
    # Slurm would hold a requeued job for two minutes.
    slurm.command("scontrol", "update", f"JobId={number}", "StartTime=now", "TimeLimit=60")
    job = slurm.wait(number, "COMPLETED", "FAILED", timeout_seconds=GENEROUS_SECONDS)
    assert (job.state, job.restarts) == ("COMPLETED", 1), output.read_text()
    assert f"resuming from {run}/checkpoints/step_{stopped_after:08d}" in output.read_text()
    assert_same_end(run, stopped_after + 20)


def test_bad_input_fails_with_one_line_per_node_and_is_not_requeued(slurm, preset, tmp_path):
    output = tmp_path / "output"
    number = slurm.submit(["--time=30"], [*preset, f"run.dir={tmp_path / 'run'}", "training.batch_size=13"], output)
    job = slurm.wait(number, "COMPLETED", "FAILED", timeout_seconds=GENEROUS_SECONDS)
    assert (job.state, job.restarts, job.exit_code) == ("FAILED", 0, "2:0"), output.read_text()
    said = [line for line in output.read_text().splitlines() if line.startswith("biggan:")]
    assert len(said) == 2
    assert all("data.streams: " in line for line in said)
    assert "Traceback" not in output.read_text()


def test_a_cancelled_job_does_not_come_back(slurm, preset, tmp_path):
    number = slurm.submit(["--time=30"], [*preset, f"run.dir={tmp_path / 'run'}"], tmp_path / "output")
    slurm.wait(number, "RUNNING", timeout_seconds=GENEROUS_SECONDS)
    slurm.command("scancel", str(number))
    slurm.wait(number, "CANCELLED", timeout_seconds=GENEROUS_SECONDS)
    while str(number) in slurm.command("squeue", "--noheader", "--format=%i"):  # it is completing
        pass
    assert slurm.job(number).state == "CANCELLED"
