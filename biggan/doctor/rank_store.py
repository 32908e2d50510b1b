"""Exchange text between ranks in bounded time, even if a rank, the network or a file system hangs.

Messages go through torchrun's key-value store, not through collectives: the collectives are what the doctor tests, and
the store can name a rank that a collective waits for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn, TypeVar

from torch.distributed import (  # type: ignore[attr-defined]  # public, not in __all__
    HashStore,
    PrefixStore,
    Store,
    TCPStore,
)

from biggan.errors import InputError

T = TypeVar("T")
POLL_SECONDS = 0.05
THREAD = "doctor"
"""Name of the worker threads."""


class Heartbeat:
    """Progress reports of a piece of work: its current activity and the time of the last report."""

    def __init__(self) -> None:
        self.beat("starting")

    def beat(self, activity: str) -> None:
        """Report progress, and name the next activity."""
        self.activity = activity
        self.at = time.monotonic()


def run_while_progressing(seconds: float, work: Callable[[Heartbeat], T]) -> T:
    """Run `work` in a thread and return its result.

    Raises what `work` raises, or TimeoutError if it reports no progress for `seconds`. A thread that hangs (in a dead
    file system, in a collective) cannot be stopped: it is left running, see `exit_process`.
    """
    heartbeat, future = Heartbeat(), Future[T]()

    def run() -> None:
        try:
            future.set_result(work(heartbeat))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=THREAD, daemon=True).start()
    while not future.done():
        remaining = heartbeat.at + seconds - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"{heartbeat.activity}: not finished in {seconds:g} s")
        with suppress(TimeoutError):
            future.exception(remaining)
    return future.result()


def exit_process(exit_code: int) -> NoReturn:
    """End the process. Skip the interpreter's cleanup if a thread is still running, because cleanup would crash."""
    if any(thread.name == THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


class StoreLostError(InputError):
    """The store does not answer. Only this rank can report that."""


class RankStore:
    """Text messages between ranks through torchrun's store."""

    def __init__(self, rank: int, world_size: int, timeout_seconds: float):
        """Connect to the store of torchrun (or of rank 0).

        Other ranks have `timeout_seconds` to answer; the store itself has 1.5 times that. Raises StoreLostError if
        the store does not answer.
        """
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._store: Store = HashStore()
        if world_size > 1:
            self._store = self._call(lambda: PrefixStore("doctor", self._connect()), waits=True)

    def exchange(self, topic: str, text: str) -> list[int]:
        """Write `text` under `topic`. Return the ranks that have written theirs once all have, or at the timeout.

        This does not read the texts: if each of N ranks read all of them, one store would send N^2 texts.
        """
        store = self._store

        def write_and_wait() -> list[int]:
            store.set(f"{topic}/{self.rank}", text)
            store.add(f"{topic}/count", 1)
            self._wait(store, f"{topic}/count", self.world_size)
            if store.add(f"{topic}/count", 0) == self.world_size:
                return list(range(self.world_size))
            return [rank for rank in range(self.world_size) if store.check([f"{topic}/{rank}"])]

        return self._call(write_and_wait, waits=True)

    def read(self, topic: str, ranks: Sequence[int]) -> dict[int, str]:
        """Return the texts of `ranks` under `topic`. Each of them must have written one."""
        store = self._store
        texts = self._call(lambda: store.multi_get([f"{topic}/{rank}" for rank in ranks]))
        return {rank: text.decode() for rank, text in zip(ranks, texts, strict=True)}

    def announce_exit_code(self, exit_code: int, listeners: int) -> None:
        """Send the exit code to `listeners` ranks, and wait until they have read it.

        The wait is needed because the store may live in this process.
        """
        store = self._store

        def announce() -> None:
            store.add("verdict", 1 + exit_code)
            self._wait(store, "heard", listeners)

        self._call(announce, waits=True)

    def receive_exit_code(self) -> int | None:
        """Return the announced exit code, or None if it did not come in time."""
        store = self._store

        def listen() -> int:
            self._wait(store, "verdict", 1)
            verdict = store.add("verdict", 0)
            store.add("heard", 1)
            return verdict

        verdict = self._call(listen, waits=True)
        return verdict - 1 if verdict else None

    def _wait(self, store: Store, counter: str, target: int) -> None:
        """Wait until a counter reaches `target` or the timeout. Each poll is one small request."""
        deadline = time.monotonic() + self.timeout_seconds
        while store.add(counter, 0) < target and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _call(self, request: Callable[[], T], waits: bool = False) -> T:
        """Send a request to the store, with a timeout from outside: over a cut link the store never answers."""
        limit_seconds = self.timeout_seconds * (1.5 if waits else 0.5)
        try:
            return run_while_progressing(limit_seconds, lambda _: request())
        except (RuntimeError, TimeoutError) as error:
            timed_out = isinstance(error, TimeoutError)
            host, address = os.uname().nodename, f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            reason = f"silent for {limit_seconds:g} s" if timed_out else str(error).strip().split("\n")[0]
            raise StoreLostError(
                f"rank {self.rank} (host {host}): the store at {address} does not answer ({reason}); "
                f"check that the node of rank 0 is up, and that {host} can reach this address and port"
            ) from None

    def _connect(self) -> TCPStore:
        agent_hosts_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # Not torch's own rendezvous: that waits for all ranks, and does not report which one is missing.
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            self.world_size,
            is_master=self.rank == 0 and not agent_hosts_store,
            timeout=timedelta(seconds=self.timeout_seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
