"""The doctor's examination within one process: traffic between ranks, timeouts, silent ranks."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist

from biggan.doctor import disk_checks, examination, rank_store
from biggan.doctor.examination import Examination, ExaminationRequest
from biggan.doctor.host import collect_host_facts
from biggan.doctor.rank_store import RankStore, run_while_progressing
from biggan.errors import InputError, LostProcesses


class Echo:
    """A store of two ranks, where the other rank answers with this rank's text."""

    rank, world_size = 0, 2

    def __init__(self):
        self.texts = {}

    def exchange(self, topic, text):
        self.texts[topic] = text
        return [0, 1]

    def read(self, topic, ranks):
        return dict.fromkeys(ranks, self.texts[topic])

    def announce_exit_code(self, exit_code, listeners):
        pass


def request_for(json_file):
    """Return a request to examine this machine only."""
    return ExaminationRequest(
        preset=None, overrides=(), data=None, run_dir=None, checksums=False, json_file=json_file, timeout_seconds=8
    )


@pytest.fixture
def ranks(monkeypatch):
    """Examine with five ranks in threads of this process. Return each one's characters read, exit code and findings."""
    common = dist.HashStore()
    monkeypatch.setattr(RankStore, "_connect", lambda _: common)
    monkeypatch.setattr(examination, "measure", lambda *_: None)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    read = Counter()
    original = RankStore.read

    def counted(store, topic, ranks):
        texts = original(store, topic, ranks)
        read[store.rank] += sum(map(len, texts.values()))
        return texts

    monkeypatch.setattr(RankStore, "read", counted)

    def examined(silent_after=None):
        def run(rank):
            store = RankStore(rank, 5, 4)
            if rank == 0 and silent_after is not None:
                exchange = store.exchange

                def falls_silent(topic, text):
                    if topic == silent_after:
                        raise SystemExit
                    return exchange(topic, text)

                store.exchange = falls_silent
            part = Examination(request_for(json_file=None), store)
            with suppress(examination.SilentRankError):
                part.run()
            return part.conclude(), part.findings

        with ThreadPoolExecutor(5) as pool:
            parts = [pool.submit(run, rank) for rank in range(5)]
        return read, [None if part.exception() else part.result() for part in parts]

    return examined


def test_only_the_printing_rank_reads_all_texts(ranks, capsys):
    read, parts = ranks()
    assert [code for code, _ in parts] == [0] * 5
    assert len(parts[0][1].hosts) == 5
    assert read[0] > 5 * 1000
    assert max(read[rank] for rank in range(1, 5)) < 200
    assert "5 process(es)" in capsys.readouterr().out


def test_next_rank_prints_the_table_when_rank_0_goes_silent(ranks, capsys):
    read, parts = ranks(silent_after=examination.FOLDER)
    assert [part and part[0] for part in parts] == [None, 2, 2, 2, 2]
    assert sorted(parts[1][1].hosts) == [0, 1, 2, 3, 4]
    assert max(read[rank] for rank in range(2, 5)) < 200
    assert "rank 0 (host " in capsys.readouterr().out.partition("failed: rendezvous: ")[2]


def test_table_is_printed_when_joining_fails(monkeypatch, capsys):
    def lost(*_):
        raise LostProcesses("rank 0 did not come within 8 s")

    monkeypatch.setattr(examination, "measure", lost)
    examined = Examination(request_for(json_file=None), Echo())
    examined.run()
    assert examined.conclude() == 2
    output = capsys.readouterr().out
    assert f"failed: all-reduce: rank 0 (host {os.uname().nodename}): rank 0 did not come within 8 s" in output


def test_table_is_printed_when_the_json_cannot_be_written(tmp_path, capsys):
    examined = Examination(request_for(json_file=tmp_path / "no" / "doctor.json"), RankStore(0, 1, 4))
    examined.run()
    with pytest.raises(InputError, match="--json: "):
        examined.conclude()
    assert "nothing failed" in capsys.readouterr().out


def test_token_file_is_read_and_removed(tmp_path):
    facts = disk_checks.inspect_folder(tmp_path / "not" / "yet")
    assert facts.parent == str(tmp_path)
    assert disk_checks.can_read_token(facts)
    assert not disk_checks.can_read_token(facts.model_copy(update={"parent": "/"}))
    disk_checks.remove_token(facts)
    assert list(tmp_path.iterdir()) == []


class Clock:
    """A clock that only the test advances, so a busy machine cannot be late."""

    now = 0.0

    def monotonic(self):
        return self.now


def test_timeout_applies_to_silence_and_not_to_progress(monkeypatch):
    clock = Clock()

    def busy(heartbeat):
        for _ in range(10):
            clock.now += 0.3
            heartbeat.beat("counting")
        return "done"

    def silent(heartbeat):
        heartbeat.beat("counting slowly")
        time.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(rank_store, "time", clock)
        assert run_while_progressing(0.4, busy) == "done"
    with pytest.raises(TimeoutError, match=r"counting slowly.* 0\.1 s"):
        run_while_progressing(0.1, silent)
    with pytest.raises(ZeroDivisionError):
        run_while_progressing(1, lambda _: 1 / 0)


def test_host_facts_of_this_machine():
    facts = collect_host_facts(None, "")
    assert facts.versions["torch"] == torch.__version__
    assert facts.open_files_limit > 0
    assert facts.shared_memory_free_bytes > 0
