"""Infer the architecture of networks from the names (biggan's) and shapes of the tensors in their state dicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from biggan.errors import InputError
from biggan.families import (
    BOTTOM_WIDTH,
    D_WIDTHS,
    G_WIDTHS,
    FamilyName,
    d_resolutions,
    g_resolutions,
    latent_chunks,
)
from biggan.importing.imported_checkpoint import State
from biggan.models.architecture import Architecture

MOST_DEPTH = 64
UNKNOWN_EPS = 1.0
"""Placeholder for the epsilons, which no tensor contains."""


@dataclass(frozen=True)
class BlockStack:
    """The stack of blocks of one network."""

    resolution: int
    channels: int
    depth: int
    """Blocks per stage."""
    attention: tuple[int, ...]
    """Resolutions with attention, in pixels."""


def infer_architecture(generator: State, discriminator: State | None, g_source: str, d_source: str) -> Architecture:
    """Return the architecture of both networks, with UNKNOWN_EPS as epsilons.

    Without a discriminator, its widths and depth are those of the generator. Raises InputError, starting with
    `g_source` or `d_source`, if a required tensor is missing, no network of biggan's has these widths, or the two do
    not match.
    """
    deep = "blocks.0.conv4.weight" in generator
    G = _generator_stack(generator, deep, g_source)
    classes, embedding_dim = _classes(generator, g_source)
    condition_dim = _shape(generator, "blocks.0.bn1.gain.weight", 2, g_source)[1]
    first_inputs = _shape(generator, "linear.weight", 2, g_source)[1]
    hierarchical = deep or (embedding_dim > 0 and condition_dim > embedding_dim)
    family: FamilyName = "biggan-deep" if deep else "biggan"
    chunks = latent_chunks(family, G.resolution, hierarchical)
    image_channels = _shape(generator, "output_conv.weight", 4, g_source)[0]
    D = None
    if discriminator is not None:
        D = _discriminator_stack(discriminator, deep, d_source)
        _check_pair(discriminator, deep, D.resolution, (G.resolution, image_channels, classes), d_source)
    return Architecture(
        family=family,
        resolution=G.resolution,
        image_channels=image_channels,
        channels=G.channels,
        d_channels=D.channels if D else G.channels,
        depth=G.depth,
        d_depth=D.depth if D else G.depth,
        classes=classes,
        z_dim=first_inputs - embedding_dim if deep else chunks * first_inputs,
        class_embedding_dim=embedding_dim,
        hierarchical=hierarchical,
        g_attention=G.attention,
        d_attention=D.attention if D else (),
        g_spectral_norm="linear.u" in generator,
        residual=True,
        d_conv_shortcuts="downsampling",
        sn_eps=UNKNOWN_EPS,
        bn_eps=UNKNOWN_EPS,
    )


def _generator_stack(state: State, deep: bool, source: str) -> BlockStack:
    first = _shape(state, "linear.weight", 2, source)[0] // BOTTOM_WIDTH**2
    widths = [first, *_block_widths(state, deep, source)]
    resolution, channels, depth = _match(widths, G_WIDTHS, generator_widths, deep, source)
    at = dict(enumerate(g_resolutions(resolution), start=1))
    return BlockStack(resolution, channels, depth, _attention(state, depth, at, source))


def _discriminator_stack(state: State, deep: bool, source: str) -> BlockStack:
    first = [_shape(state, "input_conv.weight", 4, source)[0]] if deep else []
    widths = first + _block_widths(state, deep, source)
    resolution, channels, depth = _match(widths, D_WIDTHS, discriminator_widths, deep, source)
    at = dict(enumerate(reversed(d_resolutions(resolution)), start=1))
    return BlockStack(resolution, channels, depth, _attention(state, depth, at, source))


def _block_widths(state: State, deep: bool, source: str) -> list[int]:
    """Return the output channels of each block."""
    blocks = {int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    last = "conv4" if deep else "conv2"
    return [_shape(state, f"blocks.{k}.{last}.weight", 4, source)[0] for k in range(len(blocks))]


def generator_widths(stages: Sequence[int], depth: int) -> list[int]:
    """Return the width of G's first feature map and of each block's output, from the widths of the stages.

    The last block of a stage changes the width.
    """
    return [stages[0], *(width for i, o in pairwise(stages) for width in [i] * (depth - 1) + [o])]


def discriminator_widths(stages: Sequence[int], depth: int) -> list[int]:
    """Return the first width of D and of each block's output. The first block of a stage changes the width."""
    return [stages[0], *(width for width in stages[1:] for _ in range(depth))]


def _match(
    widths: list[int],
    known: Mapping[int, tuple[int, ...]],
    layout: Callable[[Sequence[int], int], list[int]],
    deep: bool,
    source: str,
) -> tuple[int, int, int]:
    """Return the resolution, `channels` and depth of the network with these widths."""
    depths = range(1, MOST_DEPTH + 1) if deep else [1]
    for resolution, multiples in known.items():
        channels = widths[0] // multiples[0]
        for depth in depths if channels else ():
            if layout([channels * m for m in multiples], depth) == widths:
                return resolution, channels, depth
    channels_text = ", ".join(map(str, widths))
    raise InputError(f"{source}: blocks of {channels_text} channels: biggan has no such network; it cannot be imported")


def _attention(state: State, depth: int, at: Mapping[int, int], source: str) -> tuple[int, ...]:
    """Return the resolutions of the blocks that attention follows. `at`: stage, from 1, -> pixels."""
    after = {int(match[1]) for name in state if (match := re.match(r"attention\.(\d+)\.", name))}
    for k in after:
        if (k + 1) % depth or (k + 1) // depth not in at:
            raise InputError(f"{source}: attention after block {k}: biggan has no such network; it cannot be imported")
    return tuple(sorted(at[(k + 1) // depth] for k in after))


def _classes(state: State, source: str) -> tuple[int, int]:
    """Return the number of classes and the size of the shared embedding, 0 if each BatchNorm has its own table."""
    if "class_embedding.weight" in state:
        classes, size = _shape(state, "class_embedding.weight", 2, source)
        return classes, size
    return _shape(state, "blocks.0.bn1.gain.weight", 2, source)[0], 0


def _check_pair(state: State, deep: bool, resolution: int, expected: tuple[int, int, int], source: str) -> None:
    """Raise InputError unless D has the generator's resolution, image channels and classes."""
    first = "input_conv.weight" if deep else "blocks.0.conv1.weight"
    classes = _shape(state, "class_embedding.weight", 2, source)[0]
    values = (resolution, _shape(state, first, 4, source)[1], classes)
    for unit, value, other in zip(("px", "image channels", "classes"), values, expected, strict=True):
        if value != other:
            raise InputError(f"{source}: D has {value} {unit}, but G has {other}; give both networks of one run")
    if classes == 1:
        raise InputError(
            f"{source}: D has an embedding of its one class, which biggan's D lacks, so it cannot be imported; "
            f"move the file away to import the generator alone"
        )


def _shape(state: State, name: str, ndim: int, source: str) -> tuple[int, ...]:
    """Return the shape of a required tensor of `ndim` dimensions."""
    if name not in state:
        raise InputError(f"{source}: tensor {name} (biggan's name) is missing; copy the checkpoint again")
    shape = tuple(state[name].shape)
    if len(shape) != ndim:
        raise InputError(f"{source}: tensor {name} has the shape {list(shape)}, not {ndim} dimensions; copy it again")
    return shape
