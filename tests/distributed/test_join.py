"""Joining ends within its time, whatever the store does."""

import socket
import subprocess
import threading
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from runs import command, environment


class Cable:
    """A port that leads to the store's, until it is cut: then nothing comes through, and nobody is told."""

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


def test_a_link_that_is_cut_while_joining_ends_it_with_one_line(tiny):
    """Rank 0 is this test: it never welcomes rank 1, and cuts the link once that one waits for it."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    cable = Cable(store.port)
    joining = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(cable.port)}
    process = subprocess.Popen(
        command(["train", *tiny, "distributed.timeout_seconds=2"]),
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | joining,
    )
    try:
        store.wait(["hello/1"])
        cable.cut()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 6, said
    assert "biggan: cannot meet the other processes (silence for 12 s); look at their output" in said
    assert "Traceback" not in said
