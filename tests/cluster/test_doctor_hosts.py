"""`COMMAND=doctor launch/torchrun.sh` on two hosts: healthy, and with the link cut in the middle of it."""

import json
import time

import pytest
from two_hosts import ADDRESSES, TwoHosts

BOUNDS = {"JOIN_SECONDS": "20", "IDLE_SECONDS": "30", "SHUTDOWN_SECONDS": "5"}
DEADLINE_SECONDS = 200  # generous: the time-outs add up to 60


@pytest.fixture
def hosts():
    with TwoHosts() as two:
        yield two


def examine(hosts, tmp_path, *arguments):
    """Start the doctor on both hosts; its JSON comes to tmp_path/doctor.json."""
    everything = [*arguments, "--json", str(tmp_path / "doctor.json")]
    return hosts.launch(everything, tmp_path, COMMAND="doctor", **BOUNDS)


def test_two_healthy_hosts_have_clocks_and_links(hosts, preset, tmp_path):
    runs = examine(hosts, tmp_path, *preset, f"run.dir={tmp_path / 'run'}")
    for run in runs.values():
        assert run.end(DEADLINE_SECONDS) == 0, run.output
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert sorted(found["hosts"]) == sorted(ADDRESSES)
    assert {check["name"] for check in found["checks"] if check["status"] == "pass"} >= {"clocks", "links"}


def test_a_link_cut_in_the_middle_is_named_on_both_sides(hosts, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    untouched = folder.stat().st_mtime_ns
    runs = examine(hosts, tmp_path, "--run-dir", str(folder), "--timeout-seconds", "24")
    # Once rank 0's file was written there and is gone, what is left are the collectives.
    while folder.stat().st_mtime_ns == untouched or list(folder.iterdir()):
        assert not any(run.has_ended() for run in runs.values()), [run.output for run in runs.values()]
        time.sleep(0.01)
    hosts.cut()
    for run in runs.values():
        assert run.end(DEADLINE_SECONDS) == 2, run.output
        assert "left behind: []" in run.output
    found = json.loads((tmp_path / "doctor.json").read_text())
    (rendezvous,) = [check["observed"] for check in found["checks"] if check["name"] == "rendezvous"]
    assert "collectives" in rendezvous
    cut_off = next(name for name in runs if f"rank 1 (host {name})" in rendezvous)
    assert f"biggan: rank 1 (host {cut_off}): the store at " in runs[cut_off].output
