"""Collectives used by networks and statistics."""

from __future__ import annotations

import torch
import torch.distributed._functional_collectives as functional
from torch import Tensor
from torch.distributed import ProcessGroup


def all_gather_rows(row: Tensor, group: ProcessGroup) -> Tensor:
    """Gather a tensor [n] from every process of `group` into [processes, n], in rank order.

    Works under torch.compile(fullgraph=True). Gradients do not flow through it.
    """
    return functional.all_gather_single(row.unsqueeze(0), 0, group)


def all_reduce_sum(x: Tensor, group: ProcessGroup) -> Tensor:
    """Return the sum of `x` over `group` as a new tensor. Works under torch.compile; gradients do not flow through."""
    return functional.all_reduce(x, "sum", group)


def mean_over_processes(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the mean of `x` over `group`, or `x` itself if `group` is None."""
    return x if group is None else all_reduce_sum(x, group) / torch.distributed.get_world_size(group)
