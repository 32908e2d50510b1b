"""What networks a pair of state dicts is of, read from the names and shapes of their tensors (under our names)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from biggan.config.families import (
    BOTTOM_WIDTH,
    D_WIDTHS,
    G_WIDTHS,
    FamilyName,
    d_resolutions,
    g_resolutions,
    latent_chunks,
)
from biggan.errors import InputError
from biggan.importing.imported_checkpoint import State
from biggan.models.architecture import Architecture

MOST_DEPTH = 64
UNKNOWN_EPS = 1.0
"""In place of the epsilons, which show in no tensor."""


@dataclass(frozen=True)
class Tower:
    """One network's stack of blocks."""

    resolution: int
    channels: int
    depth: int
    """Blocks a stage."""
    attention: tuple[int, ...]


def architecture_of(generator: State, discriminator: State | None, g_what: str, d_what: str) -> Architecture:
    """Both networks; without a discriminator, one like the generator stands in the record. The epsilons are still to
    be filled in.

    Raises InputError, which begins with `g_what` or `d_what`, if a tensor that tells is missing, no networks of ours
    are so wide, or the two do not belong together.
    """
    deep = "blocks.0.conv4.weight" in generator
    G = _generator_tower(generator, deep, g_what)
    classes, embedding_dim = _classes(generator, g_what)
    condition_dim = _shape(generator, "blocks.0.bn1.gain.weight", 2, g_what)[1]
    first_inputs = _shape(generator, "linear.weight", 2, g_what)[1]
    hierarchical = deep or (embedding_dim > 0 and condition_dim > embedding_dim)
    family: FamilyName = "biggan-deep" if deep else "biggan"
    chunks = latent_chunks(family, G.resolution, hierarchical)
    image_channels = _shape(generator, "output_conv.weight", 4, g_what)[0]
    D = None
    if discriminator is not None:
        D = _discriminator_tower(discriminator, deep, d_what)
        _check_pair(discriminator, deep, D.resolution, (G.resolution, image_channels, classes), d_what)
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


def _generator_tower(state: State, deep: bool, what: str) -> Tower:
    first = _shape(state, "linear.weight", 2, what)[0] // BOTTOM_WIDTH**2
    widths = [first, *_block_widths(state, deep, what)]
    resolution, channels, depth = _match(widths, G_WIDTHS, _generator_widths, deep, what)
    at = dict(enumerate(g_resolutions(resolution), start=1))
    return Tower(resolution, channels, depth, _attention(state, depth, at, what))


def _discriminator_tower(state: State, deep: bool, what: str) -> Tower:
    first = [_shape(state, "input_conv.weight", 4, what)[0]] if deep else []
    widths = first + _block_widths(state, deep, what)
    resolution, channels, depth = _match(widths, D_WIDTHS, _discriminator_widths, deep, what)
    at = dict(enumerate(reversed(d_resolutions(resolution)), start=1))
    return Tower(resolution, channels, depth, _attention(state, depth, at, what))


def _block_widths(state: State, deep: bool, what: str) -> list[int]:
    """Each block's output channels."""
    blocks = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    last = "conv4" if deep else "conv2"
    return [_shape(state, f"blocks.{k}.{last}.weight", 4, what)[0] for k in range(len(blocks))]


def _generator_widths(widths: list[int], depth: int) -> list[int]:
    """The first map's width and each block's: a stage's last block is the one that changes it."""
    return widths[:1] + [width for i, o in pairwise(widths) for width in [i] * (depth - 1) + [o]]


def _discriminator_widths(widths: list[int], depth: int) -> list[int]:
    """The same of D, where a stage's first block changes it."""
    return widths[:1] + [width for width in widths[1:] for _ in range(depth)]


def _match(
    widths: list[int],
    known: Mapping[int, tuple[int, ...]],
    layout: Callable[[list[int], int], list[int]],
    deep: bool,
    what: str,
) -> tuple[int, int, int]:
    """The resolution, `channels` and depth whose network is so wide."""
    depths = range(1, MOST_DEPTH + 1) if deep else [1]
    for resolution, multiples in known.items():
        channels = widths[0] // multiples[0]
        for depth in depths if channels else ():
            if layout([channels * m for m in multiples], depth) == widths:
                return resolution, channels, depth
    raise InputError(f"{what}: blocks of {', '.join(map(str, widths))} channels: no network of ours has these widths")


def _attention(state: State, depth: int, at: Mapping[int, int], what: str) -> tuple[int, ...]:
    """Resolutions, from the numbers of the blocks that attention follows. `at`: stage, from 1 on, -> pixels."""
    after = {int(found[1]) for name in state if (found := re.match(r"attention\.(\d+)\.", name))}
    for k in after:
        if (k + 1) % depth or (k + 1) // depth not in at:
            raise InputError(f"{what}: attention after block {k}, where our networks cannot have it")
    return tuple(sorted(at[(k + 1) // depth] for k in after))


def _classes(state: State, what: str) -> tuple[int, int]:
    """How many, and the size of the shared embedding; 0 if each BatchNorm has a table of its own."""
    if "class_embedding.weight" in state:
        classes, size = _shape(state, "class_embedding.weight", 2, what)
        return classes, size
    return _shape(state, "blocks.0.bn1.gain.weight", 2, what)[0], 0


def _check_pair(state: State, deep: bool, resolution: int, generators: tuple[int, int, int], what: str) -> None:
    """Raise InputError unless D has the generator's resolution, image channels and classes."""
    first = "input_conv.weight" if deep else "blocks.0.conv1.weight"
    classes = _shape(state, "class_embedding.weight", 2, what)[0]
    mine = (resolution, _shape(state, first, 4, what)[1], classes)
    for key, ours, other in zip(("px", "image channels", "classes"), mine, generators, strict=True):
        if ours != other:
            raise InputError(f"{what}: of {ours} {key}, the generator of {other}; give the two of one run")
    if classes == 1:
        raise InputError(
            f"{what}: has a tensor for its one class, ours of one class has none, so D cannot be imported; "
            f"take the file away to import the generator alone"
        )


def _shape(state: State, name: str, axes: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in state:
        raise InputError(f"{what}: tensor {name} is missing (under our names), which tells what network it is")
    shape = tuple(state[name].shape)
    if len(shape) != axes:
        raise InputError(f"{what}: tensor {name} has the shape {list(shape)}, not one of {axes} axes")
    return shape
