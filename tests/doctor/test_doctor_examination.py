"""The doctor's examination within one process: what it sees, how long it waits, how it ends."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist

from biggan.doctor import disk_checks, examination
from biggan.doctor.board import Board, within
from biggan.doctor.examination import Examination, ExaminationRequest
from biggan.doctor.host import look_around
from biggan.errors import InputError, LostProcesses


class Echo:
    """A board of two ranks, the other of which answers as this one does."""

    rank, world_size = 0, 2

    def __init__(self):
        self.texts = {}

    def exchange(self, topic, text):
        self.texts[topic] = text
        return [0, 1]

    def read(self, topic, ranks):
        return dict.fromkeys(ranks, self.texts[topic])

    def announce(self, exit_code, listeners):
        pass


def request_for(json_file):
    """To look at this machine only."""
    return ExaminationRequest(
        preset=None, overrides=(), data=None, run_dir=None, checksums=False, json_file=json_file, timeout_seconds=8
    )


@pytest.fixture
def ranks(monkeypatch):
    """Examine with five ranks in threads of this process: what each has read, in characters, and found."""
    common = dist.HashStore()
    monkeypatch.setattr(Board, "_connect", lambda board: common)
    monkeypatch.setattr(examination, "measure", lambda *_: None)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    read = Counter()
    plain = Board.read

    def counted(board, topic, ranks):
        texts = plain(board, topic, ranks)
        read[board.rank] += sum(map(len, texts.values()))
        return texts

    monkeypatch.setattr(Board, "read", counted)

    def examined(silent_after=None):
        def run(rank):
            board = Board(rank, 5, 4)
            if rank == 0 and silent_after is not None:
                exchange = board.exchange

                def falls_silent(topic, text):
                    if topic == silent_after:
                        raise SystemExit
                    return exchange(topic, text)

                board.exchange = falls_silent
            part = Examination(request_for(json_file=None), board)
            with suppress(examination.SilenceError):
                part.run()
            return part.conclude(), part.findings

        with ThreadPoolExecutor(5) as pool:
            parts = [pool.submit(run, rank) for rank in range(5)]
        return read, [None if part.exception() else part.result() for part in parts]

    return examined


def test_only_the_rank_that_judges_reads_what_all_said(ranks, capsys):
    read, parts = ranks()
    assert [code for code, _ in parts] == [0] * 5
    assert len(parts[0][1].hosts) == 5
    assert read[0] > 5 * 1000
    assert max(read[rank] for rank in range(1, 5)) < 200
    assert "5 process(es)" in capsys.readouterr().out


def test_when_the_judge_falls_silent_the_next_rank_has_read_nothing_too_little(ranks, capsys):
    read, parts = ranks(silent_after="looking at the run folder")
    assert [part and part[0] for part in parts] == [None, 2, 2, 2, 2]
    assert sorted(parts[1][1].hosts) == [0, 1, 2, 3, 4]
    assert max(read[rank] for rank in range(2, 5)) < 200
    assert "no answer from rank 0 " in capsys.readouterr().out


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
    facts = disk_checks.look_at_folder(tmp_path / "not" / "yet")
    assert facts.parent == str(tmp_path)
    assert disk_checks.sees(facts)
    assert not disk_checks.sees(facts.model_copy(update={"parent": "/"}))
    disk_checks.clean_up(facts)
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
    assert facts.shared_memory_free_bytes > 0
