"""Tracks the largest singular values of every weight during training (Brock et al. 2018, section 4.1).

It uses its own vectors and neither reads nor advances the power iteration of spectral normalization, so it does not
change the training trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biggan.collapse.subspace import top_singular_values
from biggan.distributed.process import Process
from biggan.models.layers import SpectralNorm, as_matrix, owned_weights
from biggan.random import keyed_generator

OVERSAMPLING = 5
"""Number of additional tracked vectors: the gap to the first untracked singular value determines the convergence."""
STACK_ELEMENTS = 2**22
"""Maximum number of elements of weights that are stacked (16 MiB): it bounds the copy; larger weights gain nothing."""
OVERHEAD_ELEMENTS = 2**19
"""Fixed cost of measuring a weight, in elements, for distributing the weights over processes."""


@dataclass(frozen=True)
class SingularValues:
    """Singular values of one weight at one step."""

    raw: tuple[float, ...]
    """The `top` largest singular values (or all, if there are fewer) of the weight as a matrix [out, rest], descending;
    NaN if the weight is not finite."""
    scale: float | None
    """Spectral normalization's estimate of the first one, which the layer divides by; None without spectral
    normalization."""

    @property
    def normalized(self) -> tuple[float, ...] | None:
        """Singular values of the weight that the layer applies; the first one is 1 if the estimate is exact."""
        if self.scale is None:
            return None
        return tuple(value / self.scale if self.scale else math.nan for value in self.raw)


@dataclass(frozen=True)
class Layer:
    """Weight with the module that owns it and the module's name."""

    name: str
    module: nn.Module
    weight: Tensor

    @property
    def matrix(self) -> Tensor:
        """The weight or its transpose as float32 [m, n] with m <= n; a view if possible."""
        matrix = as_matrix(self.weight.detach()).float()
        return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()

    def random_rows(self, count: int) -> Tensor:
        """Draw random rows [min(count, m), m], keyed by the layer's name."""
        m = self.matrix.shape[0]
        rows = torch.randn(min(count, m), m, generator=keyed_generator("spectrum", self.name))
        return rows.to(self.weight.device)


class Spectrum:
    """Tracker of the `top` largest singular values of every parameter with two or more axes.

    `networks` maps the prefix of layer names to the bare module, on its device. Each of `world_size` processes measures
    its shard of the layers. Between measurements it keeps float32 bases [top + OVERSAMPLING, m], where m is the smaller
    side of the weight.
    """

    def __init__(self, networks: Mapping[str, nn.Module], top: int, rank: int, world_size: int):
        layers = [Layer(*owned) for name, network in networks.items() for owned in owned_weights(network, name)]
        self.layers: tuple[str, ...] = tuple(layer.name for layer in layers)
        assert len(set(self.layers)) == len(layers), "a module owns two weights"
        self._top = top
        owners = assign_to_processes([layer.weight.numel() + OVERHEAD_ELEMENTS for layer in layers], world_size)
        own = [layer for layer, owner in zip(layers, owners, strict=True) if owner == rank]
        self._stacks = stack_by_shape(own)
        self._random = {layer.name: layer.random_rows(top + OVERSAMPLING) for layer in own}
        self._bases = dict(self._random)

    def measure(self) -> dict[str, SingularValues]:
        """Return the current singular values of this process's layers, by layer name."""
        values: dict[str, SingularValues] = {}
        for stack in self._stacks:
            values |= self._measure(stack)
        return values

    @torch.no_grad()
    def _measure(self, stack: Sequence[Layer]) -> dict[str, SingularValues]:
        matrices = [layer.matrix for layer in stack]
        weights = torch.stack(matrices) if len(stack) > 1 else matrices[0][None]
        # The last row is always random, to find a singular value that grows in a direction outside the basis.
        start = [torch.cat([self._bases[layer.name][:-1], self._random[layer.name][-1:]]) for layer in stack]
        with torch.autocast(weights.device.type, enabled=False):
            values, bases = top_singular_values(weights, torch.stack(start), min(self._top, weights.shape[1]))
        self._bases |= {layer.name: basis for layer, basis in zip(stack, bases, strict=True)}
        scales = [layer.module.sigma_estimate() for layer in stack if isinstance(layer.module, SpectralNorm)]
        scale = iter(torch.stack(scales).tolist() if scales else [])
        return {
            layer.name: SingularValues(tuple(row), next(scale) if isinstance(layer.module, SpectralNorm) else None)
            for layer, row in zip(stack, values.tolist(), strict=True)
        }

    def measure_all(self, process: Process) -> dict[str, SingularValues]:
        """Return the singular values of every layer, in the order of `layers`, equal on all processes. Collective."""
        gathered = {name: values for shard in process.gather(self.measure()) for name, values in shard.items()}
        return {name: gathered[name] for name in self.layers}

    def state(self, process: Process) -> dict[str, Tensor]:
        """Return every layer's basis, in host memory, on every process. Collective."""
        own = {name: basis.to("cpu", copy=True) for name, basis in self._bases.items()}
        return {name: basis for shard in process.gather(own) for name, basis in shard.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state` written by any number of processes; layers missing from it start from random rows.

        If it was written with another `top`, the common rows are used.
        """
        for name, random in self._random.items():
            known = state.get(name, random)[: len(random)].to(random.device)
            self._bases[name] = torch.cat([known, random[len(known) :]])


def assign_to_processes(costs: Sequence[int], world_size: int) -> list[int]:
    """Return the rank for each item: the most expensive item first, each to the least loaded rank (Graham 1969)."""
    load = [0] * world_size
    owners = [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda k: -costs[k]):
        owners[item] = load.index(min(load))
        load[owners[item]] += costs[item]
    return owners


def stack_by_shape(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Group layers to measure together: of equal shape, and at most STACK_ELEMENTS elements unless a single layer."""
    by_shape: dict[torch.Size, list[Layer]] = {}
    for layer in layers:
        by_shape.setdefault(layer.matrix.shape, []).append(layer)
    stacks = []
    for shape, group in by_shape.items():
        height = max(1, STACK_ELEMENTS // shape.numel())
        stacks += [group[k : k + height] for k in range(0, len(group), height)]
    return stacks
