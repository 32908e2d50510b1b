"""The largest singular values of every weight, followed through training (Brock et al. 2018, section 4.1).

On vectors of its own: the power iteration of spectral normalization is neither used nor advanced, so a run is the
same with and without its spectrum.
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
"""Vectors followed besides those asked for: the gap to the first one left out decides the speed."""
STACK_ELEMENTS = 2**22
"""Equal shapes are measured together up to this size (16 MiB): it bounds the copy, and larger weights gain nothing."""
OVERHEAD_ELEMENTS = 2**19
"""What a weight costs besides its own elements, in elements, when weights are shared out over processes."""


@dataclass(frozen=True)
class SingularValues:
    """Of one weight at one step."""

    raw: tuple[float, ...]
    """Of the weight as a matrix [out, rest], descending, as many as were asked for and there are; NaN when the weight
    is not finite."""
    scale: float | None
    """Spectral normalization's own estimate of the first, by which the layer would divide now; None without it."""

    @property
    def normalized(self) -> tuple[float, ...] | None:
        """Of the weight that the layer applies; the first is 1 where the estimate is right."""
        if self.scale is None:
            return None
        return tuple(value / self.scale if self.scale else math.nan for value in self.raw)


@dataclass(frozen=True)
class Layer:
    """One weight, by the name of the module that owns it."""

    name: str
    module: nn.Module
    weight: Tensor

    @property
    def matrix(self) -> Tensor:
        """The weight, or its transpose, as [m, n] with m <= n, float32; a view where there can be one."""
        matrix = as_matrix(self.weight.detach()).float()
        return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()

    def random_rows(self, count: int) -> Tensor:
        """[min(count, m), m], the same for this name whenever they are drawn."""
        m = self.matrix.shape[0]
        rows = torch.randn(min(count, m), m, generator=keyed_generator("spectrum", self.name))
        return rows.to(self.weight.device)


class Spectrum:
    """Follows the `top` largest singular values of every parameter with two or more axes.

    `networks` are bare modules by the name that their layers' names begin with, on their device. Each of
    `world_size` processes measures a share of the layers. What is kept between two measurements are float32 bases
    [top + OVERSAMPLING, m], m the smaller side of the weight.
    """

    def __init__(self, networks: Mapping[str, nn.Module], top: int, rank: int, world_size: int):
        layers = [Layer(*owned) for name, network in networks.items() for owned in owned_weights(network, name)]
        self.layers: tuple[str, ...] = tuple(layer.name for layer in layers)
        assert len(set(self.layers)) == len(layers), "a module owns two weights"
        self._top = top
        owners = assign_to_processes([layer.weight.numel() + OVERHEAD_ELEMENTS for layer in layers], world_size)
        mine = [layer for layer, owner in zip(layers, owners, strict=True) if owner == rank]
        self._stacks = stacked(mine)
        self._random = {layer.name: layer.random_rows(top + OVERSAMPLING) for layer in mine}
        self._bases = dict(self._random)

    def measure(self) -> dict[str, SingularValues]:
        """The singular values of this process's share, as the weights are now."""
        found: dict[str, SingularValues] = {}
        for stack in self._stacks:
            found |= self._measure(stack)
        return found

    @torch.no_grad()
    def _measure(self, stack: Sequence[Layer]) -> dict[str, SingularValues]:
        matrices = [layer.matrix for layer in stack]
        weights = torch.stack(matrices) if len(stack) > 1 else matrices[0][None]
        # The last row is random every time: a singular value that grows in a direction that no basis knows is found.
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
        """The singular values of every layer, in the order of `layers`, equal on all processes. Collective."""
        found = {name: values for share in process.gather(self.measure()) for name, values in share.items()}
        return {name: found[name] for name in self.layers}

    def state(self, process: Process) -> dict[str, Tensor]:
        """Every layer's basis, in host memory, on every process. Collective."""
        mine = {name: basis.to("cpu", copy=True) for name, basis in self._bases.items()}
        return {name: basis for share in process.gather(mine) for name, basis in share.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state` of any number of processes; layers that are not in it start anew.

        Bases of another `top` serve as far as they go.
        """
        for name, random in self._random.items():
            known = state.get(name, random)[: len(random)].to(random.device)
            self._bases[name] = torch.cat([known, random[len(known) :]])


def assign_to_processes(costs: Sequence[int], world_size: int) -> list[int]:
    """The process that takes each item: the costliest first, each to whoever has least to do (Graham 1969)."""
    load = [0] * world_size
    owners = [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda k: -costs[k]):
        owners[item] = load.index(min(load))
        load[owners[item]] += costs[item]
    return owners


def stacked(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers to be measured together: of one shape, and not more than STACK_ELEMENTS unless alone."""
    by_shape: dict[torch.Size, list[Layer]] = {}
    for layer in layers:
        by_shape.setdefault(layer.matrix.shape, []).append(layer)
    stacks = []
    for shape, alike in by_shape.items():
        height = max(1, STACK_ELEMENTS // shape.numel())
        stacks += [alike[k : k + height] for k in range(0, len(alike), height)]
    return stacks
