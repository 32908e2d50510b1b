"""`launch/torchrun.sh` on two hosts: alone, with a killed worker, with a link cut for a while and for good."""

import os
import signal
import sys
import time

import pytest
from two_hosts import TwoHosts

STEPS = 60
BOUNDS = {"JOIN_SECONDS": "20", "IDLE_SECONDS": "30", "MAX_RESTARTS": "1", "SHUTDOWN_SECONDS": "5"}
TIMEOUT_SECONDS = 15
TIMEOUT = f"distributed.timeout_seconds={TIMEOUT_SECONDS}"
CUT_SECONDS = TIMEOUT_SECONDS + int(BOUNDS["IDLE_SECONDS"]) + 30
"""Within this both sides end when the link is cut for good: docs/launch.md promises it."""
SLACK_SECONDS = 15
"""Not promised: launch/torchrun.sh looks once a second, and other work has these cores too."""
DEADLINE_SECONDS = 200  # of what has no promised bound


@pytest.fixture
def hosts():
    with TwoHosts() as two:
        yield two


@pytest.fixture
def arguments(preset, tmp_path):
    return [*preset, f"run.dir={tmp_path / 'run'}", f"training.steps={STEPS}"]


def assert_all_end(runs, begun, bound_seconds, code):
    """With `code`, within the bound since the moment `begun`; pytest -rP shows what it took the last of them."""
    for run in runs.values():
        assert run.end(begun + bound_seconds + SLACK_SECONDS - time.monotonic()) == code, run.output
    print(f"both have ended {time.monotonic() - begun:.0f} s after it; promised are {bound_seconds}")


def assert_nothing_is_left(runs):
    for run in runs.values():
        assert "left behind: []" in run.output, run.output


def test_two_hosts_are_as_two_processes_of_one(hosts, arguments, tmp_path, assert_same_end):
    runs = hosts.launch(arguments, tmp_path)
    for run in runs.values():
        assert run.end(DEADLINE_SECONDS) == 0, run.output
    assert_nothing_is_left(runs)
    assert_same_end(tmp_path / "run", STEPS)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_killed_worker_brings_the_job_back(hosts, arguments, tmp_path, name, wait_for_step, assert_same_end):
    runs = hosts.launch(arguments, tmp_path)
    wait_for_step(tmp_path / "run", 25, runs[name].has_ended)
    os.kill(hosts.hosts[name].worker(), signal.SIGKILL)
    for run in runs.values():
        assert run.end(DEADLINE_SECONDS) == 0, run.output
    assert "resuming from" in runs["alpha"].output + runs["beta"].output
    assert_same_end(tmp_path / "run", STEPS)


def test_a_link_cut_for_five_seconds(hosts, arguments, tmp_path, wait_for_step, assert_same_end):
    """It waits, for no longer than a collective may; what is left to do then takes seconds."""
    runs = hosts.launch([*arguments, "distributed.timeout_seconds=60"], tmp_path)
    wait_for_step(tmp_path / "run", 25, runs["alpha"].has_ended)
    cut = hosts.cut()
    time.sleep(5)
    hosts.restore_link()
    assert_all_end(runs, cut, bound_seconds=60, code=0)
    assert_same_end(tmp_path / "run", STEPS)


def test_a_link_cut_for_good_ends_both_sides(hosts, arguments, tmp_path, wait_for_step):
    runs = hosts.launch([*arguments, TIMEOUT], tmp_path, **BOUNDS)
    wait_for_step(tmp_path / "run", 25, runs["alpha"].has_ended)
    assert_all_end(runs, hosts.cut(), CUT_SECONDS, code=1)
    assert_nothing_is_left(runs)


def test_a_link_cut_while_the_processes_meet_ends_both_sides(hosts, arguments, tmp_path):
    """The worker beside the store comes late: the other one waits for it, with words through the store alone."""
    late_seconds = 20
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$(hostname)" = alpha ] && sleep {late_seconds}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    bounded = BOUNDS | {"MAX_RESTARTS": "0", "PYTHON_EXEC": str(python)}
    runs = hosts.launch([*arguments, TIMEOUT], tmp_path, **bounded)
    while not hosts.hosts["beta"].worker_is_connected():
        assert not any(run.has_ended() for run in runs.values()), [run.output for run in runs.values()]
        time.sleep(0.1)
    assert_all_end(runs, hosts.cut(), late_seconds + CUT_SECONDS, code=1)
    assert "biggan: cannot meet the other processes (" in runs["beta"].output
    assert_nothing_is_left(runs)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_signal_to_one_host_stops_both_with_a_checkpoint(hosts, arguments, tmp_path, name, wait_for_step):
    runs = hosts.launch([*arguments, "training.steps=10000"], tmp_path)
    wait_for_step(tmp_path / "run", 3, runs[name].has_ended)
    os.kill(hosts.hosts[name].launcher(), signal.SIGTERM)
    for run in runs.values():
        assert run.end(DEADLINE_SECONDS) == 75, run.output
        assert "checkpoint written" in run.output
    assert_nothing_is_left(runs)


def test_bad_input_on_one_host_ends_both(hosts, arguments, tmp_path):
    missing = str(tmp_path / "missing")
    runs = hosts.launch([*arguments, TIMEOUT], tmp_path, only_beta=(f"data.path={missing}",), **BOUNDS)
    for run in runs.values():  # whichever of them is rank 0
        assert run.end(DEADLINE_SECONDS) == 2, run.output
        assert "biggan: data.path: " in run.output
        assert "start every process with the same config" in run.output
    assert_nothing_is_left(runs)
