"""DeepSpeed's ZeRO, stages 1 and 2: each process holds one slice of the optimizer state and of the gradients."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from biggan.distributed.collectives import all_reduce_sum
from biggan.distributed.engine import MOMENTS, AdamSettings
from biggan.distributed.finite import FiniteGuard, poison_if_non_finite
from biggan.distributed.process import Process
from biggan.errors import InputError

BUCKET_ELEMENTS = 25 * 2**20 // 4
"""Gradient elements per reduction: 25 MiB, as in DDP. DeepSpeed's default of 5e8 allocates 1.9 GiB for any network."""


class ZeroEngine:
    """An `Engine` that uses DeepSpeed. Every process holds all weights, in one flat buffer.

    ZeRO averages the gradients, passes this process's flat slice to its Adam (`_inspect` checks it first) and gathers
    the updated weights.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        adam: AdamSettings,
        process: Process,
        guard: FiniteGuard,
        stage: Literal[1, 2],
        autocast: torch.dtype | None,
    ):
        """Set up DeepSpeed for `module`; `autocast` is the compute dtype, None for float32. Weights are float32."""
        assert process.group is not None, "ZeRO needs a process group"
        self.module, self.guard, self.adam = module, guard, adam
        self._group = process.group
        self._parameters = dict(module.named_parameters())
        self._guarded_names = tuple(f"{name}.{key}" for key in self._parameters)
        self._norm = torch.zeros((), device=process.device)
        self._one, self._hold = torch.ones((), device=process.device), False
        for parameter in module.parameters():  # ZeRO's flat buffer supports contiguous memory only
            parameter.data = torch.empty(parameter.shape, device=process.device).copy_(parameter.data)
        deepspeed = load_deepspeed(process.device)
        deepspeed.utils.groups._WORLD_GROUP = process.group  # else it creates its own, with a timeout of 30 minutes
        self._adam = adam.optimizer(list(self._parameters.values()))
        self._adam.register_step_pre_hook(self._inspect)
        self._engine = deepspeed.initialize(model=module, optimizer=self._adam, config=zero_config(stage, autocast))[0]
        self._zero = self._engine.optimizer
        # Create it once: a tensor from Python numbers in every step would synchronize with the device.
        self._slices = list(self._own_slices())
        self._rows = torch.tensor([k for k, _ in self._slices], dtype=torch.long, device=process.device)

    def __call__(self, *inputs: Any) -> Any:
        output = self._engine(*inputs)
        # These hooks start DeepSpeed's backward pass at any gradient, also at that of a gradient penalty.
        for tensor in tree_leaves(output):
            for hooks in getattr(tensor, "_backward_hook_managers", ()):
                hooks.remove_hooks()
        return output

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Implement `Engine`: stage 1 reduces gradients in the last micro-step, stage 2 in every one."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Implement `Engine`."""
        self._engine._backward_prologue()
        self._engine.backward(poison_if_non_finite(loss))

    def step(self, update: bool = True) -> Tensor:
        """Implement `Engine`."""
        self._hold = not update
        self._engine.step()
        return self._norm

    @contextmanager
    def changing_weights(self) -> Iterator[nn.Module]:
        """Implement `Engine`: copy the changed weights to the slice that this process's Adam updates."""
        yield self.module
        self._zero.refresh_fp32_params()

    def set_adam(self, adam: AdamSettings) -> None:
        """Implement `Engine`."""
        self.adam = adam
        adam.apply(self._adam)

    def _inspect(self, adam: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Compute every parameter's gradient norm from all processes' slices; check and clip before Adam's step."""
        flat = self._flat.grad
        assert flat is not None, "ZeRO gives its Adam the averaged gradients"
        parts = [flat.narrow(0, at.start, at.numel) for _, at in self._slices]
        squares = flat.new_zeros(len(self._parameters), dtype=torch.float64)
        if parts:  # a process can have none if the network is small
            squares[self._rows] = torch.stack(torch._foreach_norm(parts)).double().square()
        norms = all_reduce_sum(squares, self._group).sqrt().to(flat.dtype)
        self._norm = self.guard.inspect(self._guarded_names, norms)
        self.adam.clip_([flat], self._norm)
        adam.found_inf = self._one if self._hold else self.guard.veto  # type: ignore[attr-defined]

    @property
    def _flat(self) -> Tensor:
        """This process's slice of the weights as one vector, which its Adam updates."""
        (flat,) = self._zero.single_partition_of_fp32_groups
        return flat

    def _own_slices(self) -> Iterator[tuple[int, Any]]:
        """Yield, for each parameter with a part in `_flat`, its index and the start and numel of the part."""
        for k, parameter in enumerate(self._parameters.values()):
            slice_of: Any = parameter._hp_mapping  # type: ignore[attr-defined]
            if slice_of is not None:
                yield k, slice_of.get_hp_fragment_address()

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Implement `Engine`: each tensor is gathered from all processes' slices, one at a time."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._adam.state.get(self._flat)
        if not state:
            return
        for name, parameter in self._parameters.items():
            yield f"{name}/step", state["step"]
            for key in MOMENTS:
                yield f"{name}/{key}", safe_get_full_optimizer_state(parameter, key)

    def restore(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Implement `Engine`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.module.load_state_dict(weights)
        self._zero.refresh_fp32_params()
        if not optimizer:
            return  # saved before the first update
        first, flat = next(iter(self._parameters)), self._flat
        step = optimizer[f"{first}/step"].to(flat.device)
        self._adam.state[flat] = {"step": step.clone(), **{key: torch.zeros_like(flat) for key in MOMENTS}}
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._parameters.items():
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, optimizer[f"{name}/{key}"].to(flat.device), key)


def zero_config(stage: int, autocast: torch.dtype | None) -> dict[str, Any]:
    """Return DeepSpeed's config without the parts that biggan does: accumulation, clipping, finite checks, printing."""
    arithmetic = {"enabled": autocast is not None, "lower_precision_safe_modules": []}
    return {
        "train_micro_batch_size_per_gpu": 1,  # used by DeepSpeed's counters only
        "gradient_clipping": 0.0,  # its default is 1.0
        "zero_optimization": {"stage": stage, "compute_grad_norm": False, "reduce_bucket_size": BUCKET_ELEMENTS},
        "torch_autocast": arithmetic | ({"dtype": str(autocast).removeprefix("torch.")} if autocast else {}),
        "steps_per_print": 10**12,
    }


def load_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed and connect it to torch's process group, without printing and without compiling CPU kernels.

    Raise InputError if it cannot be imported.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        import deepspeed
    except ImportError as error:
        raise InputError(
            f"distributed.engine: DeepSpeed cannot be imported ({error}); pip install 'biggan[deepspeed]', "
            f"or set distributed.engine=ddp"
        ) from None
    deepspeed.utils.logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor. is deprecated")  # called by DeepSpeed
    deepspeed.ops.__compatible_ops__ = {}  # else it compiles an unused shared-memory kernel for a minute
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
    return deepspeed
