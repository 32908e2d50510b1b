"""Collectives used by networks and statistics."""

from __future__ import annotations

from typing import Any

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


class _MeanOverProcesses(torch.autograd.Function):
    """The mean over processes of a tensor, in both directions.

    Every process's loss depends on the mean, and the gradients of the losses are averaged over processes afterwards.
    So the gradient of one process's part is the mean of all processes' gradients of the mean.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return mean_over_processes(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return mean_over_processes(grad, ctx.group), None


def mean_over_processes_with_gradient(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the mean of `x` over `group`, or `x` itself if `group` is None; gradients flow to every process."""
    if group is None:
        return x
    mean: Tensor = _MeanOverProcesses.apply(x, group)
    return mean
