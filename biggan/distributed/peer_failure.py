"""Diagnosis of lost processes: one message names the lost rank and the collective, in place of N tracebacks.

A collective that cannot finish raises an error on every participant, after the process group's timeout at the latest.
The surviving processes report to each other through the rendezvous store. A rank without a report is the lost one.
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
from biggan.distributed.timeout import run_with_timeout
from biggan.errors import LostProcesses, StoppedRun

T = TypeVar("T")
LOST = ": lost the others"
GRACE_SECONDS = 5
"""Time for the other processes to report their own failures."""


@contextmanager
def naming_lost_processes(process: Process, dump_folder: Path) -> Iterator[None]:
    """Raise LostProcesses if a collective fails inside; report any other error to the other processes.

    On such a failure each process writes torch's flight recorder to `dump_folder`/rank_N.json.
    """
    try:
        yield
    except StoppedRun:
        raise
    except Exception as error:
        if process.store is None:
            raise
        if not is_collective_failure(error):
            publish_report(process, f": failed: {' '.join(traceback.format_exception_only(error)[-1].split())}")
            raise  # its traceback is the message
        entry, frame = last_collective(dump_folder / f"rank_{process.rank}.json"), innermost_frame(error)
        publish_report(process, LOST)
        reports = collect_reports(process)
        lost = LostProcesses(describe(process, reports, f"{entry}, called by {frame}", error))
        if reports is None:  # nothing is known of the other processes: one process per machine prints the message
            lost.reported = not process.is_first_of_host
        else:  # the lowest surviving rank prints it
            lost.reported = any(rank < process.rank for rank, text in reports.items() if text.endswith(LOST))
        raise lost from None


@contextmanager
def reported_once(process: Process) -> Iterator[None]:
    """Let one process per machine print a StoppedRun that is raised inside on all processes.

    The error leaves the block once all processes have reached it.
    """
    try:
        yield
    except LostProcesses:
        raise
    except StoppedRun as error:
        error.reported = error.reported or not process.is_first_of_host
        with suppress(
            RuntimeError
        ):  # a process killed meanwhile breaks the barrier; `error` is still the reason to stop
            process.barrier()  # rank 0 may still be closing its files; torchrun ends all processes when the first ends
        raise


def is_collective_failure(error: Exception) -> bool:
    """Return True if a collective raised `error`: torch raises a DistError, gloo a plain RuntimeError."""
    return isinstance(error, dist.DistError) or "/gloo/transport/" in str(error)


def publish_report(process: Process, text: str) -> None:
    """Store this process's report for the other processes; do nothing if the store is unreachable."""
    store = _report_store(process)
    _within_grace_period(lambda: store.set(f"{process.rank}", f"{process.host}{text}"))


def collect_reports(process: Process) -> dict[int, str] | None:
    """Wait up to GRACE_SECONDS and return the reports by rank, or None if the store is unreachable."""
    store = _report_store(process)

    def collect() -> dict[int, str]:
        until = time.monotonic() + GRACE_SECONDS
        reports: dict[int, str] = {}
        while len(reports) < process.world_size and time.monotonic() < until:
            for rank in set(range(process.world_size)) - reports.keys():
                if store.check([f"{rank}"]):
                    reports[rank] = store.get(f"{rank}").decode()
            time.sleep(0.1)
        return reports

    return _within_grace_period(collect)


def _report_store(process: Process) -> Store:
    assert process.store is not None, "the caller checks this"
    return PrefixStore("lost", process.store)


def _within_grace_period(action: Callable[[], T]) -> T | None:
    """Return the result of `action` on the store; None if it fails, or hangs as it does on a cut link."""
    try:
        return run_with_timeout(2 * GRACE_SECONDS, action)
    except (dist.DistError, TimeoutError):
        return None


def describe(process: Process, reports: dict[int, str] | None, collective: str, error: Exception) -> str:
    """Return one line that names the lost or failed ranks and the collective that this process waited in."""
    reason = str(error).splitlines()[0].rsplit("] ", 1)[-1]
    at = f"rank {process.rank} ({process.host}) waited in {collective}: {reason}"
    fix = "run the same command again, or use torchrun --max-restarts to restart automatically"
    if reports is None:
        return f"lost the process that keeps the rendezvous store, or the link to it. {at}; {fix}"
    failed = [f"rank {rank} ({text})" for rank, text in sorted(reports.items()) if ": failed: " in text]
    silent = [f"rank {rank} ({process.hosts[rank]})" for rank in range(process.world_size) if rank not in reports]
    if failed:
        return f"{', '.join(failed)}. {at}; {fix}"
    if silent:
        return f"no answer from {', '.join(silent)}: killed, hung or cut off. {at}; {fix}"
    return f"a connection broke, but all processes are alive. {at}; {fix}"


def last_collective(dump: Path) -> str:
    """Write gloo's flight recorder to `dump` and NCCL's beside it; return a description of gloo's last collective."""
    recorder: Any = torch._C._distributed_c10d
    trace: bytes = recorder._dump_fr_trace_json()
    dumps = {dump: trace}
    if dist.is_nccl_available() and json.loads(nccl_trace := recorder._dump_nccl_trace_json()).get("entries"):
        dumps[dump.with_name(f"{dump.stem}_nccl.json")] = nccl_trace
    with suppress(OSError):  # a full disk may be the reason for the failure
        dump.parent.mkdir(parents=True, exist_ok=True)
        for file, contents in dumps.items():
            file.write_bytes(contents)
    entries: list[dict[str, Any]] = json.loads(trace).get("entries", [])
    if not entries:
        return "a collective"
    last = entries[-1]
    return f"{last['profiling_name']} number {last['collective_seq_id']} of {last['input_sizes']}"


def innermost_frame(error: Exception) -> str:
    """Return the innermost frame of biggan's code as `function (module.py:line)`."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "/biggan/" in f.filename]
    return f"{ours[-1].name} ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else "torch"
