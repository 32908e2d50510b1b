"""Which block of a source does what a block of the run's network is to do.

The block at the same resolution, if it fits; else the one as far from the image. The published widths follow both: G's
from 64 to 128 px agree from the lowest resolution up, D's from the image down, and from 128 to 256 px both have a new
stage in the middle. What is near the image, edges and textures, is much the same an octave off.
"""

from __future__ import annotations

from biggan.config.families import D_WIDTHS, FAMILIES, G_WIDTHS
from biggan.models.architecture import Architecture

Candidates = list[list[int]]
"""For each block, blocks of the source, the likeliest first."""
Places = list[tuple[int, int]]
"""Of each block, its stage and its number in the stage."""


def g_candidates(target: Architecture, source: Architecture) -> Candidates:
    """Of the generator, whose stages all begin at the same resolution."""
    return _candidates(_g_places(target), _g_places(source), 0, _octaves(target, source))


def d_candidates(target: Architecture, source: Architecture) -> Candidates:
    """Of the discriminator, whose stages begin at the image."""
    return _candidates(_d_places(target), _d_places(source), _octaves(target, source), 0)


def _octaves(target: Architecture, source: Architecture) -> int:
    """How many times the source's resolution is doubled from the target's (both are powers of 2)."""
    return source.resolution.bit_length() - target.resolution.bit_length()


def _candidates(mine: Places, theirs: Places, *later: int) -> Candidates:
    """The source's blocks of the stages that are `later` by so many, of the same number."""
    numbers = {place: k for k, place in enumerate(theirs)}
    places = [dict.fromkeys((stage + by, number) for by in later) for stage, number in mine]
    return [[numbers[place] for place in likely if place in numbers] for likely in places]


def _g_places(networks: Architecture) -> Places:
    """Numbers are counted from the end of a stage, whose last block doubles the resolution."""
    stages = len(G_WIDTHS[networks.resolution]) - 1
    return [(stage, after) for stage in range(stages) for after in reversed(range(networks.depth))]


def _d_places(networks: Architecture) -> Places:
    """Numbers are counted from the beginning of a stage, whose first block halves the resolution."""
    # An input convolution is no block.
    stages = len(D_WIDTHS[networks.resolution]) - FAMILIES[networks.family].d_input_conv
    return [(stage, number) for stage in range(stages) for number in range(networks.d_depth)]
