"""This process among its peers: ranks, device, process group. The only place that chooses a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from biggan.errors import InputError


def world_size_from_environment() -> int:
    """Number of processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def this_device() -> torch.device:
    """This process's CUDA device if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"--nproc_per_node: process {local_rank} of this machine has no GPU; it has {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class Process:
    """One training process. `group` is None when it is the only one."""

    rank: int
    world_size: int
    device: torch.device
    group: ProcessGroup | None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

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
    # Both backends in one group: tensors on the device go through NCCL, flags on the host through gloo.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds)
    )
    try:
        yield Process(rank=dist.get_rank(), world_size=world_size, device=device, group=dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def batchnorm_group(process: Process, group_size: int, timeout_seconds: int) -> ProcessGroup | None:
    """The process group whose statistics this process shares: `group_size` neighbours, 0 for all."""
    if process.group is None or group_size in (0, process.world_size):
        return process.group
    if group_size == 1:
        return None
    mine, _all = dist.new_subgroups(group_size, timeout=timedelta(seconds=timeout_seconds))
    return mine
