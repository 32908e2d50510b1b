"""What trains one network: the reduction of its gradients over processes, and its optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biggan.distributed.finite import FiniteGuard, poison_if_non_finite
from biggan.distributed.process import Process


class DDPEngine:
    """A network under DistributedDataParallel (or alone, on one process) and its Adam.

    Calling the engine runs the network's forward pass so that `backward` reduces its gradients; `module` is
    the bare network, for passes that must not. `step` applies the accumulated gradients unless the guard
    vetoes them, and clears them.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        process: Process,
        guard: FiniteGuard,
    ):
        self.module = module
        self.guard = guard
        self.parameters = dict(module.named_parameters())
        self._guarded_names = tuple(f"{name}.{key}" for key in self.parameters)
        # Fused, because only the fused kernels skip an update by a flag that stays on the device.
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=lr, betas=betas, eps=eps, fused=True)
        self._ddp: DistributedDataParallel | None = None
        if process.group is not None:
            # A 1x1 channels-last weight has two equal descriptions of its memory; DDP warns that ours is not its own.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            # Buffers need no broadcast: BatchNorm's are reduced, and u follows from equal weights.
            self._ddp = DistributedDataParallel(
                module, process_group=process.group, forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, *inputs: Tensor) -> Tensor:
        network: Any = self._ddp or self.module
        output: Tensor = network(*inputs)
        return output

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch go inside; gradients are reduced in the last only."""
        if self._ddp is None or last:
            yield
        else:
            with self._ddp.no_sync():
                yield

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` (already divided by the number of micro-batches)."""
        torch.autograd.backward(poison_if_non_finite(loss))

    def step(self) -> Tensor:
        """Update the weights and clear the gradients; return the gradient norm, a scalar on the device."""
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        assert len(grads) == len(self.parameters), "a parameter took no part in the loss"
        norm = self.guard.inspect(self._guarded_names, grads)
        self.optimizer.found_inf = self.guard.veto  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Gradients pass through `module` but never into it."""
    module.requires_grad_(False)
    try:
        yield module
    finally:
        module.requires_grad_(True)
