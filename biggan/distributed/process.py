"""This process among its peers: ranks, device, process group. The only place that chooses a device."""

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

from biggan.distributed.timeout import wait_for_other_threads, within
from biggan.errors import InputError, LostProcesses, StoppedRun

T = TypeVar("T")
JOIN_GRACE_SECONDS = 10
"""Joining may take this much longer than its time-out: where the store answers, its own time-outs say more."""
NCCL_GRACE_SECONDS = 30
"""By how much NCCL's collectives may take longer than gloo's: its watchdog ends the process, which has words to
leave and to hear first (`lost.py`)."""


def world_size_from_environment() -> int:
    """Number of processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process, of those torchrun started, is rank 0; also before and after they have joined."""
    return os.environ.get("RANK", "0") == "0"


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def this_device() -> torch.device:
    """This process's CUDA device if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = local_rank()
    if index >= torch.cuda.device_count():
        raise InputError(
            f"--nproc_per_node: process {index} of this machine has no GPU; it has {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether a CPU or CUDA device multiplies bfloat16 in hardware; a CPU that does not is 10 times slower in it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@dataclass(frozen=True)
class Process:
    """One training process. `group` and `store` are None when it is the only one."""

    rank: int
    world_size: int
    device: torch.device
    group: ProcessGroup | None
    store: Store | None = None
    """Where processes leave word for each other, besides collectives."""
    hosts: tuple[str, ...] = ("localhost",)
    """Host names by rank."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

    @property
    def is_first_of_host(self) -> bool:
        """Whether this is the lowest rank on its machine, which speaks for it."""
        return self.hosts.index(self.host) == self.rank

    @property
    def host(self) -> str:
        """This process's host name."""
        return self.hosts[self.rank]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process. Collective, on the host: the device is not waited for."""
        if self.group is None:
            return flag
        seen = torch.tensor(int(flag))
        dist.all_reduce(seen, dist.ReduceOp.MAX, self.group)
        return bool(seen)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in rank order, on every process. Collective, on the host."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, self.group)
        return values

    def together(self, action: Callable[[], T]) -> T:
        """The value of `action`; a StoppedRun that it raises on any process is raised on all. Collective."""
        value, failure = None, None
        try:
            value = action()
        except StoppedRun as error:
            failure = type(error), str(error)
        failures = self.gather(failure)
        failed = [rank for rank, found in enumerate(failures) if found is not None]
        if failed:
            kind, message = failures[failed[0]]
            everywhere = len(failed) == self.world_size or len(set(self.hosts)) == 1
            raise kind(message if everywhere else f"{self.hosts[failed[0]]}: {message}")
        return cast(T, value)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)


@contextmanager
def join(timeout_seconds: int) -> Iterator[Process]:
    """Join the processes torchrun started (none without it) on CUDA with NCCL, or on CPU with gloo."""
    device = this_device()
    world_size = world_size_from_environment()
    if world_size > 1 and "RANK" not in os.environ:
        raise InputError(f"WORLD_SIZE is {world_size} but RANK is not set; start the processes with torchrun")
    if world_size == 1:
        yield Process(rank=0, world_size=1, device=device, group=None)
        return
    try:
        process = within(
            timeout_seconds + JOIN_GRACE_SECONDS, lambda: _join_others(device, world_size, timeout_seconds)
        )
    except (RuntimeError, TimeoutError) as error:  # torch's DistErrors are RuntimeErrors, and gloo's
        reason = str(error).strip().split("\n")[0] or f"silence for {timeout_seconds + JOIN_GRACE_SECONDS} s"
        unmet = LostProcesses(f"cannot meet the other processes ({reason}); look at their output, and docs/launch.md")
        unmet.said = local_rank() != 0  # the first of each machine speaks
        raise unmet from None
    try:
        yield process
    except LostProcesses:  # leaving the group could wait for a kernel that hangs; this process is about to end
        raise
    except BaseException:
        _leave_others()
        raise
    _leave_others()


def _leave_others() -> None:
    wait_for_other_threads()  # this process may be about to end
    dist.destroy_process_group()


def _join_others(device: torch.device, world_size: int, timeout_seconds: int) -> Process:
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # torch's record of the last collectives
    timeout = timedelta(seconds=timeout_seconds)
    store, rank, _ = next(rendezvous("env://", timeout=timeout))
    store = fresh_store(store, rank, world_size, timeout_seconds)
    # Both backends in one group: tensors on the device go through NCCL, flags on the host through gloo.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    patience = timeout + timedelta(seconds=NCCL_GRACE_SECONDS)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=patience)
    group = dist.group.WORLD
    assert group is not None, "it was just made"
    _gloo_ends_first(group, timeout)
    process = Process(rank, world_size, device, group, store)
    return replace(process, hosts=tuple(process.gather(socket.gethostname())))


def _gloo_ends_first(group: ProcessGroup, timeout: timedelta) -> None:
    """Give gloo's collectives, which fail with an error that can be caught and explained, a time-out of their own."""
    group._get_backend(torch.device("cpu"))._set_default_timeout(timeout)


def fresh_store(store: Store, rank: int, world_size: int, timeout_seconds: float) -> Store:
    """A part of `store` that nobody has written to, the same on all processes.

    torchrun's store survives a restart of the workers with all its keys, and whoever reads the address of a
    process that is dead by now connects to nobody. Nor may the part be named after the restart count, which
    can differ between nodes. So rank 0 names it, and tells each process in answer to a word only that one has.
    """
    if rank:
        word = uuid.uuid4().hex
        store.set(f"hello/{rank}", word)
        name = store.get(f"welcome/{word}").decode()
        store.set(f"{name}/here/{rank}", "")
        return PrefixStore(name, store)
    name, missing = uuid.uuid4().hex, set(range(1, world_size))
    until = time.monotonic() + timeout_seconds
    while missing:
        for other in list(missing):
            if store.check([f"{name}/here/{other}"]):
                missing.remove(other)
            elif store.check([f"hello/{other}"]):  # perhaps of a process that is gone: asked again until it is not
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", name)
        if time.monotonic() > until:
            raise LostProcesses(
                f"{len(missing)} of {world_size} processes did not come within {timeout_seconds} s, "
                f"the first is rank {min(missing)}; look at its output"
            )
        time.sleep(0.01)
    return PrefixStore(name, store)


def batchnorm_group(process: Process, group_size: int, timeout_seconds: int) -> ProcessGroup | None:
    """The process group whose statistics this process shares: `group_size` neighbours, 0 for all."""
    if process.group is None or group_size in (0, process.world_size):
        return process.group
    if group_size == 1:
        return None
    timeout = timedelta(seconds=timeout_seconds)
    mine, _all = dist.new_subgroups(group_size, timeout=timeout + timedelta(seconds=NCCL_GRACE_SECONDS))
    _gloo_ends_first(mine, timeout)
    return mine
