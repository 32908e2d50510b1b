"""Joining ends within its time limit for any failure of the store."""

import socket
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from runs import start

from biggan.distributed import peer_failure, process
from biggan.distributed.process import join
from biggan.errors import InputError, LostProcesses


class Cable:
    """A proxy of the store's port; after `cut` it drops all data without closing connections."""

    def __init__(self, store_port):
        self._store_port, self._is_whole = store_port, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self._is_whole = False

    def _accept(self):
        while True:
            here, there = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._store_port))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source, sink):
        with suppress(OSError):
            while data := source.recv(4096):
                if self._is_whole:
                    sink.sendall(data)


def test_link_cut_while_joining_ends_with_one_line(tiny):
    """This test acts as rank 0: it never answers rank 1, and cuts the link while rank 1 waits."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    cable = Cable(store.port)
    joining = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(cable.port)}
    joining_process = start(["train", *tiny, "distributed.timeout_seconds=2"], **joining)
    store.wait(["hello/1"])
    cable.cut()
    output = joining_process.communicate(timeout=60)[0]
    assert joining_process.returncode == 6, output
    (line,) = [line for line in output.splitlines() if line.startswith("biggan: ")]
    assert " 12 s)" in line
    assert "docs/launch.md" in line
    assert "Traceback" not in output


def test_group_is_destroyed_unless_processes_were_lost(monkeypatch):
    """Destroying it after a loss could wait for a hung kernel."""
    left = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process, "_join_others", lambda *_: "this process")
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(True))
    with pytest.raises(LostProcesses), join(5):
        raise LostProcesses("gone")
    assert not left
    with pytest.raises(InputError), join(5):
        raise InputError("bad")
    with join(5) as joined:
        assert joined == "this process"
    assert len(left) == 2


def test_flight_recorders_of_gloo_and_nccl_are_written(monkeypatch, tmp_path):
    recorder = torch._C._distributed_c10d
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(recorder, "_dump_nccl_trace_json", lambda: b'{"entries": [{}]}', raising=False)
    peer_failure.last_collective(tmp_path / "rank_3.json")
    assert (tmp_path / "rank_3_nccl.json").read_bytes() == b'{"entries": [{}]}'
    monkeypatch.setattr(recorder, "_dump_nccl_trace_json", lambda: b"{}")
    peer_failure.last_collective(tmp_path / "rank_4.json")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["rank_3.json", "rank_3_nccl.json", "rank_4.json"]
