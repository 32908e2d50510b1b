"""The doctor's examination within one process: what it sees, how long it waits, how it ends."""

import os
import time

import pytest
import torch

from biggan.doctor import disk, examination
from biggan.doctor.board import Board, within
from biggan.doctor.examination import Examination, Request
from biggan.doctor.host import look_around
from biggan.errors import InputError, LostProcesses


class Echo:
    """A board of two ranks, the other of which answers as this one does."""

    rank, world_size = 0, 2

    def exchange(self, topic, text):
        return {0: text, 1: text}

    def announce(self, exit_code, listeners):
        pass


def request_for(json_file):
    """To look at this machine only."""
    return Request(
        preset=None, overrides=(), data=None, run_dir=None, checksums=False, json_file=json_file, timeout_seconds=8
    )


def test_processes_lost_while_joining_leave_a_table(monkeypatch, capsys):
    def lost(*_):
        raise LostProcesses("rank 0 did not come within 8 s")

    monkeypatch.setattr(examination, "measure", lost)
    examined = Examination(request_for(json_file=None), Echo())
    examined.run()
    assert examined.conclude() == 2
    said = capsys.readouterr().out
    assert f"failed: all-reduce: rank 0 (host {os.uname().nodename}): rank 0 did not come within 8 s" in said


def test_a_json_that_cannot_be_written_does_not_cost_the_table(tmp_path, capsys):
    examined = Examination(request_for(json_file=tmp_path / "no" / "doctor.json"), Board(0, 1, 4))
    examined.run()
    with pytest.raises(InputError, match="--json: "):
        examined.conclude()
    assert "nothing failed" in capsys.readouterr().out


def test_the_file_for_the_others_is_found_and_removed(tmp_path):
    facts = disk.look_at_folder(tmp_path / "not" / "yet")
    assert facts.parent == str(tmp_path)
    assert disk.sees(facts)
    assert not disk.sees(facts.model_copy(update={"parent": "/"}))
    disk.clean_up(facts)
    assert list(tmp_path.iterdir()) == []


def test_within_bounds_silence_but_not_work_that_goes_on():
    def busy(pulse):
        for _ in range(10):
            time.sleep(0.05)
            pulse.beat("counting")
        return "done"

    def silent(pulse):
        pulse.beat("counting sheep")
        time.sleep(60)

    assert within(0.4, busy) == "done"
    with pytest.raises(TimeoutError, match=r"no end to counting sheep in 0\.1 s"):
        within(0.1, silent)
    with pytest.raises(ZeroDivisionError):
        within(1, lambda _: 1 / 0)


def test_facts_are_found_on_this_machine():
    facts = look_around(None, "")
    assert facts.versions["torch"] == torch.__version__
    assert facts.open_files_limit > 0
    assert facts.shared_memory_total_bytes > 0
