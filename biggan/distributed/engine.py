"""What trains one network: the reduction of its gradients over processes, and its optimizer.

`Engine` is all that the training step knows of it. Here is torch's DistributedDataParallel; `zero.py` has
DeepSpeed's ZeRO.
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
    """A network, the reduction of its gradients and its Adam.

    Calling the engine runs the network's forward pass so that `backward` reduces its gradients; `module` is
    the bare network, for passes that must not.
    """

    module: nn.Module
    guard: FiniteGuard

    def __call__(self, *inputs: Tensor) -> Tensor: ...

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Forward and backward of one micro-batch go inside; the last makes the gradients complete."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of `loss` (already divided by the number of micro-batches)."""

    def step(self, update: bool = True) -> Tensor:
        """Update the weights, unless the guard vetoes it or not `update`, and clear the gradients.

        Returns the gradient norm over all processes, before any clipping: a scalar on the device.
        """

    def changing_weights(self) -> AbstractContextManager[nn.Module]:
        """The network, whose weights may be changed in place inside, on all processes alike."""

    def set_learning_rate(self, lr: float) -> None:
        """Of the updates from now on."""

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Adam's whole state, tensor by tensor, as PARAMETER/exp_avg, PARAMETER/exp_avg_sq, PARAMETER/step.

        Collective: every process takes them all. Whoever keeps one copies it.
        """

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Become what was saved, by any engine on any number of processes; learning rates stay this engine's."""


@dataclass(frozen=True)
class AdamSettings:
    """Adam's settings. `max_grad_norm` scales down gradients whose norm is larger; 0 leaves them alone."""

    lr: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float

    def optimizer(self, parameters: list[Tensor]) -> torch.optim.Adam:
        """Torch's Adam; fused, because only the fused kernels skip an update by a flag that stays on the device."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)

    def clip_(self, grads: list[Tensor], norm: Tensor) -> None:
        """Scale `grads`, whose total norm over all processes is `norm`, to at most `max_grad_norm`."""
        if self.max_grad_norm:
            torch._foreach_mul_(grads, (self.max_grad_norm / norm).clamp(max=1))


class DDPEngine:
    """An Engine of DistributedDataParallel, or of nothing on a single process."""

    def __init__(self, module: nn.Module, *, name: str, adam: AdamSettings, process: Process, guard: FiniteGuard):
        self.module, self.guard, self.adam = module, guard, adam
        self._parameters = dict(module.named_parameters())
        self._guarded_names = tuple(f"{name}.{key}" for key in self._parameters)
        self._optimizer = adam.optimizer(list(self._parameters.values()))
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
        """See `Engine`: gradients are reduced in the last micro-step only."""
        if self._ddp is None or last:
            yield
        else:
            with self._ddp.no_sync():
                yield

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        torch.autograd.backward(poison_if_non_finite(loss))

    def step(self, update: bool = True) -> Tensor:
        """See `Engine`."""
        grads = [p.grad for p in self._parameters.values() if p.grad is not None]
        assert len(grads) == len(self._parameters), "a parameter took no part in the loss"
        norm = self.guard.inspect(self._guarded_names, torch.stack(torch._foreach_norm(grads)))
        self.adam.clip_(grads, norm)
        self._optimizer.found_inf = self.guard.veto  # type: ignore[attr-defined]
        if update:
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    @contextmanager
    def changing_weights(self) -> Iterator[nn.Module]:
        """See `Engine`."""
        yield self.module

    def set_learning_rate(self, lr: float) -> None:
        """See `Engine`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine`."""
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                yield f"{name}/{key}", value

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        self.module.load_state_dict(weights)
        for name, parameter in self._parameters.items():
            if f"{name}/step" not in optimizer:
                continue  # saved before the first update
            # Laid out as the weight is: the fused kernel walks both in memory order.
            moments = {k: torch.empty_like(parameter).copy_(optimizer[f"{name}/{k}"]) for k in MOMENTS}
            self._optimizer.state[parameter] = {"step": optimizer[f"{name}/step"].to(parameter.device), **moments}


MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Gradients pass through `module` but never into it."""
    module.requires_grad_(False)
    try:
        yield module
    finally:
        module.requires_grad_(True)


@contextmanager
def staying(engine: Engine, weights: list[nn.Parameter]) -> Iterator[None]:
    """Whatever happens to these weights inside, afterwards they are what they were. On all processes alike.

    Adam's moments follow their gradients all the same: moments of 0 behind a step count of many (ZeRO has one for all
    weights) would make the first update once they move 1 / sqrt(1 - beta2) times too large, 30 times by default.
    """
    before = [weight.detach().clone() for weight in weights]
    yield
    if before:
        with engine.changing_weights(), torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
