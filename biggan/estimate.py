"""What a config will cost, computed without allocating it: parameters, TFLOP and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from biggan import build
from biggan.config import Config
from biggan.objectives.losses import d_hinge, g_hinge


@dataclass(frozen=True)
class Estimate:
    """Of one process among `world_size`."""

    g_parameters: int
    d_parameters: int
    tflop_per_step: float
    """Multiply-adds counted as 2, all processes together: one G step with its D steps."""
    weights_gib: float
    """Weights, gradients, Adam's two moments and the EMA."""
    activations_gib: float
    """What the larger of the D and G passes keeps for its backward pass, one micro-batch."""

    @property
    def total_gib(self) -> float:
        """Weights and activations; the allocator and workspaces come on top."""
        return self.weights_gib + self.activations_gib


def estimate(config: Config, world_size: int) -> Estimate:
    """Run one D and one G pass of a process's micro-batch on tensors without storage, and count."""
    n = config.micro_batch_size // world_size
    t = config.training
    with FakeTensorMode():
        G, D = build.generator(config.model), build.discriminator(config.model)
        z = torch.empty(n, config.model.effective_z_dim)
        y = torch.zeros(n, dtype=torch.long)
        x = torch.empty(n, 3, config.model.resolution, config.model.resolution)
        autocast = build.autocast(config, torch.device("cpu"))

        def d_pass() -> None:
            with autocast:
                with torch.no_grad():
                    fake = G(z, y)
                logits = D(torch.cat([fake.float(), x]), torch.cat([y, y])).float()
                real, fake_loss = d_hinge(*logits.split([n, n]))
                (real + fake_loss).backward()

        def g_pass() -> None:
            D.requires_grad_(False)
            with autocast:
                g_hinge(D(G(z, y), y).float()).backward()

        d_flop, d_bytes = _measure(d_pass, D)
        g_flop, g_bytes = _measure(g_pass, G)
    g_parameters, d_parameters = (sum(p.numel() for p in network.parameters()) for network in (G, D))
    gib = 2.0**30
    return Estimate(
        g_parameters=g_parameters,
        d_parameters=d_parameters,
        tflop_per_step=(t.d_steps * d_flop + g_flop) * t.accumulation * world_size / 1e12,
        weights_gib=4 * (5 * g_parameters + 4 * d_parameters) / gib,
        activations_gib=max(d_bytes, g_bytes) / gib,
    )


def _measure(run: Callable[[], None], network: nn.Module) -> tuple[int, int]:
    """FLOP of `run`, and bytes autograd saved for its backward pass besides the parameters of `network`."""
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage.nbytes()
        return x

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return counter.get_total_flops(), sum(saved.values())
