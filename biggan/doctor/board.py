"""Words between ranks that arrive or are missed within a bounded time, whatever hangs.

They go through torchrun's key-value store and not through the collectives, which are what is examined: a rank that a
collective waits for in vain can be named here.
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
"""Name of the threads that work is done in."""


class Pulse:
    """Told by a piece of work that it is getting on, and with what."""

    def __init__(self) -> None:
        self.beat("starting")

    def beat(self, doing: str) -> None:
        """The work goes on, and does `doing` next."""
        self.doing = doing
        self.at = time.monotonic()


def within(seconds: float, work: Callable[[Pulse], T]) -> T:
    """Run `work` in a thread; raises what it raises, or TimeoutError if it is silent for `seconds`.

    A thread that hangs (in a dead file system, in a collective) cannot be ended: it is left behind, see `leave`.
    """
    pulse, future = Pulse(), Future[T]()

    def run() -> None:
        try:
            future.set_result(work(pulse))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=THREAD, daemon=True).start()
    while not future.done():
        remaining = pulse.at + seconds - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"no end to {pulse.doing} in {seconds:g} s")
        with suppress(TimeoutError):
            future.exception(remaining)
    return future.result()


def leave(exit_code: int) -> NoReturn:
    """End the process; at once if a thread was left behind, which the interpreter's own end would trip over."""
    if any(thread.name == THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


class StoreLostError(InputError):
    """The store does not answer: nobody else can say so for this rank."""


class Board:
    """Where ranks write down what they found for the others to read."""

    def __init__(self, rank: int, world_size: int, timeout_seconds: float):
        """Connect to the store that torchrun (or rank 0) keeps; raises StoreLostError if it does not answer.

        The others are waited for `timeout_seconds`, and the store itself half as long again.
        """
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._store: Store = HashStore()
        if world_size > 1:
            if not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
                raise InputError("WORLD_SIZE is set, but not RANK, MASTER_ADDR, MASTER_PORT; start with torchrun")
            self._store = self._asked(lambda: PrefixStore("doctor", self._connect()), waits=True)

    def exchange(self, topic: str, text: str) -> list[int]:
        """Write `text` on `topic`; the ranks that have written theirs, once all have or the time is up.

        Nobody's text is read here: of N ranks that all read all, one store would send N^2.
        """
        store = self._store

        def write_and_wait() -> list[int]:
            store.set(f"{topic}/{self.rank}", text)
            store.add(f"{topic}/count", 1)
            self._wait(store, f"{topic}/count", self.world_size)
            if store.add(f"{topic}/count", 0) == self.world_size:
                return list(range(self.world_size))
            return [rank for rank in range(self.world_size) if store.check([f"{topic}/{rank}"])]

        return self._asked(write_and_wait, waits=True)

    def read(self, topic: str, ranks: Sequence[int]) -> dict[int, str]:
        """What `ranks`, which have written on `topic`, wrote."""
        store = self._store
        texts = self._asked(lambda: store.multi_get([f"{topic}/{rank}" for rank in ranks]))
        return {rank: text.decode() for rank, text in zip(ranks, texts, strict=True)}

    def announce(self, exit_code: int, listeners: int) -> None:
        """Tell the others the verdict, and stay (the store may live in this process) until they have heard it."""
        store = self._store

        def tell() -> None:
            store.add("verdict", 1 + exit_code)
            self._wait(store, "heard", listeners)

        self._asked(tell, waits=True)

    def hear(self) -> int | None:
        """The verdict, or None if it was not announced in time."""
        store = self._store

        def listen() -> int:
            self._wait(store, "verdict", 1)
            verdict = store.add("verdict", 0)
            store.add("heard", 1)
            return verdict

        verdict = self._asked(listen, waits=True)
        return verdict - 1 if verdict else None

    def _wait(self, store: Store, counter: str, wanted: int) -> None:
        """Until a counter has reached `wanted` or the time is up; one small question per poll and rank."""
        deadline = time.monotonic() + self.timeout_seconds
        while store.add(counter, 0) < wanted and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _asked(self, question: Callable[[], T], waits: bool = False) -> T:
        """Ask the store; it may never answer (a cut link is silence), so this is bounded from outside."""
        limit_seconds = self.timeout_seconds * (1.5 if waits else 0.5)
        try:
            return within(limit_seconds, lambda _: question())
        except (RuntimeError, TimeoutError) as error:
            silent = isinstance(error, TimeoutError)
            host, address = os.uname().nodename, f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            reason = f"silent for {limit_seconds:g} s" if silent else str(error).strip().split("\n")[0]
            raise StoreLostError(
                f"rank {self.rank} (host {host}): the store at {address} does not answer ({reason}); "
                f"see that the node of rank 0 is up, and that the address and port can be reached from {host}"
            ) from None

    def _connect(self) -> TCPStore:
        agent_keeps_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # Not torch's own rendezvous: that waits for all ranks, and does not say which one is missing.
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            self.world_size,
            is_master=self.rank == 0 and not agent_keeps_it,
            timeout=timedelta(seconds=self.timeout_seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
