"""When another process is gone or hangs: who, and in which collective, said once instead of N tracebacks.

A collective that cannot finish raises an error on everyone who takes part, after the process group's time-out
at the latest. Those who are still there tell each other through the rendezvous store; whoever is silent is
the one to look at.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, not in __all__

from biggan.distributed.process import Process
from biggan.distributed.timeout import within
from biggan.errors import LostProcesses, StoppedRun

T = TypeVar("T")
LOST = ": lost the others"
GRACE_SECONDS = 5
"""How long the others are given to say that they failed too."""


@contextmanager
def naming_lost_processes(process: Process, dump_folder: Path) -> Iterator[None]:
    """Raise LostProcesses for a collective that failed inside; tell the others of any other error.

    Each process writes torch's record of its last collectives to `dump_folder`/rank_N.json.
    """
    try:
        yield
    except StoppedRun:
        raise
    except Exception as error:
        if process.store is None:
            raise
        if not is_collective_failure(error):
            report(process, f": failed: {' '.join(traceback.format_exception_only(error)[-1].split())}")
            raise  # its traceback is the message
        entry, where = last_collective(dump_folder / f"rank_{process.rank}.json"), innermost_frame(error)
        report(process, LOST)
        answers = ask_others(process)
        lost = LostProcesses(describe(process, answers, f"{entry}, called by {where}", error))
        if answers is None:  # nothing is known of the others: one of each machine speaks
            lost.said = not process.is_first_of_host
        else:  # the first of those that are left does
            lost.said = any(rank < process.rank for rank, word in answers.items() if word.endswith(LOST))
        raise lost from None


@contextmanager
def said_once(process: Process) -> Iterator[None]:
    """A StoppedRun that is raised inside, on all processes, is said by one of each machine, when all are there."""
    try:
        yield
    except LostProcesses:
        raise
    except StoppedRun as error:
        error.said = error.said or not process.is_first_of_host
        with suppress(RuntimeError):  # of a process that is killed meanwhile: this is why the others end
            process.barrier()  # rank 0 may still be closing its files; torchrun ends all when the first one ends
        raise


def is_collective_failure(error: Exception) -> bool:
    """Whether `error` is a collective's: gloo raises bare RuntimeErrors, torch's own have a type."""
    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def report(process: Process, what: str) -> None:
    """Leave word for the others; if the store is out of reach, they will miss it."""
    store = _words(process)
    _within_grace(lambda: store.set(f"{process.rank}", f"{process.host}{what}"))


def ask_others(process: Process) -> dict[int, str] | None:
    """What each process has left word of, after giving them time; None if the store cannot be reached."""
    store = _words(process)

    def ask() -> dict[int, str]:
        until = time.monotonic() + GRACE_SECONDS
        answers: dict[int, str] = {}
        while len(answers) < process.world_size and time.monotonic() < until:
            for rank in set(range(process.world_size)) - answers.keys():
                if store.check([f"{rank}"]):
                    answers[rank] = store.get(f"{rank}").decode()
            time.sleep(0.1)
        return answers

    return _within_grace(ask)


def _words(process: Process) -> Store:
    assert process.store is not None, "the caller checked this"
    return PrefixStore("lost", process.store)


def _within_grace(talk: Callable[[], T]) -> T | None:
    """What `talk` with the store returns; None if that fails or is silent, as a cut link is."""
    try:
        return within(2 * GRACE_SECONDS, talk)
    except (dist.DistError, TimeoutError):
        return None


def describe(process: Process, answers: dict[int, str] | None, collective: str, error: Exception) -> str:
    """One line: whom rank `process.rank` misses, in which collective."""
    reason = str(error).splitlines()[0].rsplit("] ", 1)[-1]
    at = f"rank {process.rank} ({process.host}) waited in {collective}: {reason}"
    again = "run the same command again; torchrun --max-restarts does so by itself"
    if answers is None:
        return f"lost the process that keeps the rendezvous store, or the link to it. {at}; {again}"
    failed = [f"rank {rank} ({said})" for rank, said in sorted(answers.items()) if ": failed: " in said]
    silent = [f"rank {rank} ({process.hosts[rank]})" for rank in range(process.world_size) if rank not in answers]
    if failed:
        return f"{', '.join(failed)}. {at}; {again}"
    if silent:
        return f"no answer from {', '.join(silent)}: killed, hung or cut off. {at}; {again}"
    return f"a connection broke, all processes are still there. {at}; {again}"


def last_collective(dump: Path) -> str:
    """Write gloo's flight recorder to `dump` and NCCL's beside it; return gloo's last collective, in words."""
    recorder: Any = torch._C._distributed_c10d
    trace: bytes = recorder._dump_fr_trace_json()
    found = {dump: trace}
    if dist.is_nccl_available() and json.loads(devices := recorder._dump_nccl_trace_json()).get("entries"):
        found[dump.with_name(f"{dump.stem}_nccl.json")] = devices
    with suppress(OSError):  # a full disk may be why we are here
        dump.parent.mkdir(parents=True, exist_ok=True)
        for file, contents in found.items():
            file.write_bytes(contents)
    entries: list[dict[str, Any]] = json.loads(trace).get("entries", [])
    if not entries:
        return "a collective"
    last = entries[-1]
    return f"{last['profiling_name']} number {last['collective_seq_id']} of {last['input_sizes']}"


def innermost_frame(error: Exception) -> str:
    """The function of ours that called what failed: `name (module.py:line)`."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "/biggan/" in f.filename]
    return f"{ours[-1].name} ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else "torch"
