"""The collectives that networks and statistics need; each is the identity without a process group."""

from __future__ import annotations

import torch
import torch.distributed._functional_collectives as functional
from torch import Tensor
from torch.distributed import ProcessGroup


def all_gather_rows(row: Tensor, group: ProcessGroup) -> Tensor:
    """Gather [n] of every process in `group` into [processes, n], in rank order.

    Compiles with torch.compile(fullgraph=True); does not carry gradients.
    """
    return functional.all_gather_single(row.unsqueeze(0), 0, group)


def all_reduce_sum(x: Tensor, group: ProcessGroup) -> Tensor:
    """Sum of `x` over `group`, as a new tensor. Compiles; does not carry gradients."""
    return functional.all_reduce(x, "sum", group)


def mean_over_processes(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """Mean of `x` over `group`, or `x` itself without one."""
    return x if group is None else all_reduce_sum(x, group) / torch.distributed.get_world_size(group)
