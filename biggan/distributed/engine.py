"""Gradient reduction and optimizer for one network.

The training step uses the `Engine` interface only. This module implements it with torch's DistributedDataParallel;
`zero.py` implements it with DeepSpeed's ZeRO.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biggan.distributed.finite import FiniteGuard, poison_if_non_finite
from biggan.distributed.process import Process


class Engine(Protocol):
    """Gradient reduction and Adam optimizer for one network.

    Calling the engine runs the forward pass whose gradients `backward` reduces over processes. `module` is the bare
    network, for forward passes whose gradients must not be reduced.
    """

    module: nn.Module
    guard: FiniteGuard

    def __call__(self, *inputs: Any) -> Any: ...

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Enclose forward and backward of one micro-batch; after the `last` one the gradients are complete."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss`, which is already divided by the number of micro-batches."""

    def step(self, update: bool = True) -> Tensor:
        """Update the weights if `update` is True and the guard has no veto, and clear the gradients.

        Return the gradient norm over all processes before clipping, a scalar on the device.
        """

    def changing_weights(self) -> AbstractContextManager[nn.Module]:
        """Yield the network for changes of its weights in place, which must be the same on all processes."""

    def set_adam(self, adam: AdamSettings) -> None:
        """Set the settings of all following updates."""

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield Adam's complete state as PARAMETER/exp_avg, PARAMETER/exp_avg_sq and PARAMETER/step.

        Collective: every process must consume all tensors. Copy a tensor to keep it.
        """

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Load weights and Adam state saved by any engine on any number of processes; keep the learning rate."""


@dataclass(frozen=True)
class AdamSettings:
    """Adam's settings in one update. Gradients with a norm above `max_grad_norm` are scaled down to it; 0 disables
    clipping."""

    lr: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float

    def optimizer(self, parameters: list[Tensor]) -> torch.optim.Adam:
        """Return torch's fused Adam; only the fused kernels can skip an update by a flag on the device."""
        device = parameters[0].device
        lr = torch.full((), self.lr, device=device) if device.type == "cuda" else self.lr
        return torch.optim.Adam(parameters, lr=lr, betas=self.betas, eps=self.eps, fused=True)

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Give `optimizer` these settings. A rate on a GPU is written into a tensor, which a captured graph reads."""
        for group in optimizer.param_groups:
            group["betas"], group["eps"] = self.betas, self.eps
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr)
            else:
                group["lr"] = self.lr

    def clip_(self, grads: list[Tensor], norm: Tensor) -> None:
        """Scale `grads` in place to a norm of at most `max_grad_norm`; `norm` is their norm over all processes."""
        if self.max_grad_norm:
            torch._foreach_mul_(grads, (self.max_grad_norm / norm).clamp(max=1))


class DDPEngine:
    """An `Engine` that uses DistributedDataParallel, or the plain network on a single process."""

    def __init__(self, module: nn.Module, *, name: str, adam: AdamSettings, process: Process, guard: FiniteGuard):
        self.module, self.guard, self.adam = module, guard, adam
        self._parameters = dict(module.named_parameters())
        self._guarded_names = tuple(f"{name}.{key}" for key in self._parameters)
        self._optimizer = adam.optimizer(list(self._parameters.values()))
        self._ddp: DistributedDataParallel | None = None
        if process.group is not None:
            # A 1x1 channels-last weight has two equivalent sets of strides; DDP warns if ours differ from its own.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            # Buffers need no broadcast: BatchNorm's are reduced, and equal weights give equal u vectors.
            self._ddp = DistributedDataParallel(
                module, process_group=process.group, forward_sync_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, *inputs: Any) -> Any:
        network: Any = self._ddp or self.module
        return network(*inputs)

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Implement `Engine`: gradients are reduced in the last micro-step only."""
        if self._ddp is None or last:
            yield
        else:
            with self._ddp.no_sync():
                yield

    def backward(self, loss: Tensor) -> None:
        """Implement `Engine`."""
        torch.autograd.backward(poison_if_non_finite(loss))

    def step(self, update: bool = True) -> Tensor:
        """Implement `Engine`."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        assert len(grads) == len(self._parameters), "a parameter has no gradient: it is unused in the loss"
        norm = self.guard.inspect(self._guarded_names, torch.stack(torch._foreach_norm(grads)))
        self.adam.clip_(grads, norm)
        self._optimizer.found_inf = self.guard.veto  # type: ignore[attr-defined]
        if update:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    @contextmanager
    def changing_weights(self) -> Iterator[nn.Module]:
        """Implement `Engine`."""
        yield self.module

    def set_adam(self, adam: AdamSettings) -> None:
        """Implement `Engine`."""
        self.adam = adam
        adam.apply(self._optimizer)

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Implement `Engine`."""
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                yield f"{name}/{key}", value

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Implement `Engine`."""
        self.module.load_state_dict(weights)
        for name, parameter in self._parameters.items():
            if f"{name}/step" not in optimizer:
                continue  # saved before the first update
            # Use the weight's memory layout: the fused kernel reads both in memory order.
            moments = {k: torch.empty_like(parameter).copy_(optimizer[f"{name}/{k}"]) for k in MOMENTS}
            self._optimizer.state[parameter] = {"step": optimizer[f"{name}/step"].to(parameter.device), **moments}


MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Disable gradients of the module's parameters; gradients of its inputs still flow."""
    module.requires_grad_(False)
    try:
        yield module
    finally:
        module.requires_grad_(True)


@contextmanager
def restored_on_exit(engine: Engine, weights: list[nn.Parameter]) -> Iterator[None]:
    """Restore these weights on exit; Adam's moments still update. Call it on all processes alike.

    Moments left at 0 behind a large step count (ZeRO has one count for all weights) would make the first update after
    unfreezing 1 / sqrt(1 - beta2) times too large, 30 times by default.
    """
    before = [weight.detach().clone() for weight in weights]
    yield
    if before:
        with engine.changing_weights(), torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
