"""Spectrally normalized layers and self-attention.

Spectral normalization (Miyato et al. 2018) divides a weight by an estimate of its largest singular value.
Each forward pass in training mode advances a persistent left vector `u` by one power iteration; the
estimate is differentiable through the weight. In evaluation mode `u` does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def as_matrix(weight: Tensor) -> Tensor:
    """View a weight [out, ...] as the matrix [out, rest] of spectral norm.

    Columns are in memory order, so a channels-last weight is not copied. Neither singular values nor W W^T depend on
    the order of columns.
    """
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1) if weight.stride(1) == 1 else weight
    return weight.reshape(weight.shape[0], -1)


def named_weights(network: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return every parameter with two or more axes by layer: `name` (G or D), then the path of the owning module."""
    return {layer: parameter for layer, _, parameter in owned_weights(network, name)}


def owned_weights(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield (layer, owning module, parameter) for every parameter with two or more axes."""
    for path, module in network.named_modules(prefix=name):
        for parameter in module.parameters(recurse=False):
            if parameter.ndim >= 2:
                yield path, module, parameter


class SpectralNorm(nn.Module):
    """Mixin for layers with a `weight` [out, ...]: adds the buffer `u` [out] and `normalized_weight`."""

    weight: Tensor
    u: Tensor

    def init_power_iteration(self, eps: float) -> None:
        """Add `u`, a random unit vector. `eps` is not added to anything; it only guards zero norms."""
        self.sn_eps = eps
        self.register_buffer("u", F.normalize(torch.randn(self.weight.shape[0]), dim=0))

    def normalized_weight(self) -> Tensor:
        """Return the weight divided by its estimated largest singular value, in the weight's own precision."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = as_matrix(self.weight)
            with torch.no_grad():
                v = F.normalize(self.u @ matrix, dim=0, eps=self.sn_eps)
                u = F.normalize(matrix @ v, dim=0, eps=self.sn_eps)
                if self.training:
                    self.u.copy_(u)
            sigma = u @ (matrix @ v)
            return self.weight / sigma

    @torch.no_grad()
    def sigma_estimate(self) -> Tensor:
        """Return the divisor of `normalized_weight` in evaluation mode, a scalar on the device. `u` does not change."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = as_matrix(self.weight)
            v = F.normalize(self.u @ matrix, dim=0, eps=self.sn_eps)
            return (matrix @ v).norm()


class SNConv2d(SpectralNorm, nn.Conv2d):
    """Stride-1, same-size convolution [N, in, H, W] -> [N, out, H, W] with a normalized weight."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, eps: float, bias: bool = True):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.init_power_iteration(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized_weight(), self.bias, padding=self.padding)


class SNLinear(SpectralNorm, nn.Linear):
    """Linear layer [N, in] -> [N, out] with a normalized weight."""

    def __init__(self, in_features: int, out_features: int, eps: float, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.init_power_iteration(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(), self.bias)


class SNEmbedding(SpectralNorm, nn.Embedding):
    """Embedding [N] -> [N, features] whose table [classes, features] is normalized as one matrix."""

    def __init__(self, classes: int, features: int, eps: float):
        super().__init__(classes, features)
        self.init_power_iteration(eps)

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.normalized_weight())


@dataclass(frozen=True)
class Layers:
    """Builder of a network's layers: spectrally normalized, or torch's own."""

    sn_eps: float | None
    """Guard of the norms in power iteration; None: no spectral normalization."""

    def conv(self, inputs: int, outputs: int, size: int, bias: bool = True) -> nn.Module:
        """Build a `size` x `size` convolution of stride 1: [N, inputs, H, W] -> [N, outputs, H, W]."""
        if self.sn_eps is None:
            return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
        return SNConv2d(inputs, outputs, size, self.sn_eps, bias)

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        """Build a linear layer [N, inputs] -> [N, outputs]."""
        if self.sn_eps is None:
            return nn.Linear(inputs, outputs, bias)
        return SNLinear(inputs, outputs, self.sn_eps, bias)

    def embedding(self, classes: int, features: int) -> nn.Module:
        """Build an embedding [N] -> [N, features]."""
        if self.sn_eps is None:
            return nn.Embedding(classes, features)
        return SNEmbedding(classes, features, self.sn_eps)


def each_kind(layer: Callable[[Tensor], Tensor], x: Tensor, kinds: Sequence[int]) -> Tensor:
    """Apply a layer that mixes samples to the rows of each kind apart.

    `kinds` are the numbers of rows of each kind (fake, real, ...), in order; none or one: all rows are of one kind.
    """
    return layer(x) if len(kinds) < 2 else torch.cat([layer(rows) for rows in x.split(list(kinds))])


class SelfAttention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019, SAGAN), keys and values at half resolution.

    [N, C, H, W] -> [N, C, H, W]: x + gamma * attention(x), gamma starting at 0.
    """

    def __init__(self, channels: int, layers: Layers):
        super().__init__()
        narrow = max(1, channels // 8)
        self.theta = layers.conv(channels, narrow, 1, bias=False)
        self.phi = layers.conv(channels, narrow, 1, bias=False)
        self.g = layers.conv(channels, channels // 2, 1, bias=False)
        self.o = layers.conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))  # not a scalar: DeepSpeed cannot broadcast one

    def forward(self, x: Tensor) -> Tensor:
        maps = self.theta(x), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        # One head, [N, 1, positions, channels]: with four axes CUDA uses a kernel that never stores all logits.
        query, key, value = (m.flatten(2).transpose(1, 2).unsqueeze(1) for m in maps)
        # SAGAN does not divide the logits by sqrt(channels): scale 1.
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)
        return x + self.gamma * self.o(attended.transpose(1, 2).unflatten(2, x.shape[2:]))
