"""Rank, device and process group of this process. No other module chooses a device."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]  # public, not in __all__
    PrefixStore,
    ProcessGroup,
    Store,
)
from torch.distributed.rendezvous import rendezvous

from biggan.distributed.environment import (
    allow_open_files,
    check_rendezvous,
    local_rank,
    world_size_from_environment,
)
from biggan.distributed.timeout import run_with_timeout, wait_for_other_threads
from biggan.errors import InputError, LostProcesses, StoppedRun, from_os_error

T = TypeVar("T")
JOIN_GRACE_SECONDS = 10
"""Extra time for joining beyond its timeout; a store that answers raises its own, more informative timeout first."""
NCCL_GRACE_SECONDS = 30
"""Extra time for NCCL's collectives beyond gloo's timeout.

NCCL's watchdog kills the process; this leaves time to exchange failure reports first (`peer_failure.py`).
"""


def this_device() -> torch.device:
    """Return this process's CUDA device if there are GPUs, else the CPU; raise InputError if its GPU is missing."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = local_rank()
    if index >= torch.cuda.device_count():
        raise InputError(
            f"--nproc_per_node: local rank {index} has no GPU, this machine has {torch.cuda.device_count()}; "
            f"start at most one process per GPU"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Return True if a CPU or CUDA device multiplies bfloat16 in hardware. Emulation on a CPU is 10 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@dataclass(frozen=True)
class Process:
    """One training process. `group` and `store` are None if it is the only one."""

    rank: int
    world_size: int
    device: torch.device
    group: ProcessGroup | None
    store: Store | None = None
    """Rendezvous store, for failure reports outside collectives."""
    hosts: tuple[str, ...] = ("localhost",)
    """Host names by rank."""

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes files and shows progress."""
        return self.rank == 0

    @property
    def is_first_of_host(self) -> bool:
        """True on the lowest rank of each machine, which prints messages for the machine."""
        return self.hosts.index(self.host) == self.rank

    @property
    def host(self) -> str:
        """Host name of this process."""
        return self.hosts[self.rank]

    def any(self, flag: bool) -> bool:
        """Return True if `flag` is True on any process. Collective on the host, without device synchronization."""
        if self.group is None:
            return flag
        reduced = torch.tensor(int(flag))
        dist.all_reduce(reduced, dist.ReduceOp.MAX, self.group)
        return bool(reduced)

    def gather(self, value: Any) -> list[Any]:
        """Return the list of every process's `value`, in rank order. Collective on the host."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, self.group)
        return values

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` and return its result; a StoppedRun from any process is raised on all. Collective.

        So is an OSError that names a file, as an InputError.
        """
        value, failure = None, None
        try:
            value = action()
        except StoppedRun as error:
            failure = type(error), str(error)
        except OSError as error:
            if (known := from_os_error(error)) is None:
                raise
            failure = InputError, str(known)
        failures = self.gather(failure)
        failed = [rank for rank, entry in enumerate(failures) if entry is not None]
        if failed:
            kind, message = failures[failed[0]]
            everywhere = len(failed) == self.world_size or len(set(self.hosts)) == 1
            raise kind(message if everywhere else f"{self.hosts[failed[0]]}: {message}")
        return cast(T, value)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)


@contextmanager
def join(timeout_seconds: int, shards: int = 0) -> Iterator[Process]:
    """Join the processes that torchrun started, with NCCL on CUDA or gloo on CPU; without torchrun yield one process.

    All together hold up to `shards` shards open. Raise LostProcesses if they do not all join in time, InputError if
    the environment is inconsistent or its limit of open files too low.
    """
    world_size = world_size_from_environment()
    check_rendezvous(world_size)
    allow_open_files(world_size, shards)
    device = this_device()
    if world_size == 1:
        yield Process(rank=0, world_size=1, device=device, group=None)
        return
    try:
        process = run_with_timeout(
            timeout_seconds + JOIN_GRACE_SECONDS, lambda: _join_others(device, world_size, timeout_seconds)
        )
    except (RuntimeError, TimeoutError) as error:  # torch's DistErrors are RuntimeErrors, and gloo's
        reason = str(error).strip().split("\n")[0] or f"no answer for {timeout_seconds + JOIN_GRACE_SECONDS} s"
        lost = LostProcesses(f"cannot meet the other processes ({reason}); see their output, and docs/launch.md")
        lost.reported = local_rank() != 0  # one process per machine prints the message
        raise lost from None
    try:
        yield process
    except LostProcesses:  # destroying the group could wait for a hung kernel; the process is about to end anyway
        raise
    except BaseException:
        _leave_others()
        raise
    _leave_others()


def _leave_others() -> None:
    wait_for_other_threads()  # the process may be about to end
    dist.destroy_process_group()


def _join_others(device: torch.device, world_size: int, timeout_seconds: int) -> Process:
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # collectives kept by torch's flight recorder
    timeout = timedelta(seconds=timeout_seconds)
    store, rank, _ = next(rendezvous("env://", timeout=timeout))
    store = fresh_store(store, rank, world_size, timeout_seconds)
    # One group with both backends: device tensors use NCCL, host flags use gloo.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    nccl_timeout = timeout + timedelta(seconds=NCCL_GRACE_SECONDS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=nccl_timeout)
    group = dist.group.WORLD
    assert group is not None, "init_process_group sets it"
    _set_gloo_timeout(group, timeout)
    process = Process(rank, world_size, device, group, store)
    return replace(process, hosts=tuple(process.gather(socket.gethostname())))


def _set_gloo_timeout(group: ProcessGroup, timeout: timedelta) -> None:
    """Give gloo a shorter timeout than NCCL, because its failures can be caught and explained."""
    group._get_backend(torch.device("cpu"))._set_default_timeout(timeout)


def fresh_store(store: Store, rank: int, world_size: int, timeout_seconds: float) -> Store:
    """Return an unused prefix of `store`, the same on all processes.

    torchrun's store keeps all keys when workers restart, so a worker could read the address of a dead process and try
    to connect to it. The restart count cannot name the prefix, because it can differ between nodes. So rank 0 chooses
    a random name and sends it to each process in reply to a token that only this process knows.
    Raise LostProcesses if a process does not reply within `timeout_seconds`.
    """
    if rank:
        token = uuid.uuid4().hex
        store.set(f"hello/{rank}", token)
        name = store.get(f"welcome/{token}").decode()
        store.set(f"{name}/here/{rank}", "")
        return PrefixStore(name, store)
    name, missing = uuid.uuid4().hex, set(range(1, world_size))
    until = time.monotonic() + timeout_seconds
    while missing:
        for other in list(missing):
            if store.check([f"{name}/here/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # may come from a dead process, so read it again in every round
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", name)
        if time.monotonic() > until:
            raise LostProcesses(
                f"{len(missing)} of {world_size} processes did not join within {timeout_seconds} s, "
                f"the first is rank {min(missing)}; see its output"
            )
        time.sleep(0.01)
    return PrefixStore(name, store)


def batchnorm_group(process: Process, group_size: int, timeout_seconds: int) -> ProcessGroup | None:
    """Return this process's group for BatchNorm statistics: `group_size` consecutive ranks, or all for 0.

    Return None for a group of one process.
    """
    if process.group is None or group_size in (0, process.world_size):
        return process.group
    if group_size == 1:
        return None
    timeout = timedelta(seconds=timeout_seconds)
    mine, _all = dist.new_subgroups(group_size, timeout=timeout + timedelta(seconds=NCCL_GRACE_SECONDS))
    _set_gloo_timeout(mine, timeout)
    return mine
