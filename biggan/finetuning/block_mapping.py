"""Maps the blocks of a run's networks to blocks of the source's networks.

The first candidate is the block at the same resolution, the second the block at the same distance from the image. Both
occur in the published widths. From 64 to 128 px, G's widths agree from the lowest resolution up, and D's from the image
down. From 128 to 256 px, both networks have a new stage in the middle. Features near the image, edges and textures,
hardly change when the resolution doubles.
"""

from __future__ import annotations

from biggan.families import D_WIDTHS, FAMILIES, G_WIDTHS
from biggan.models.architecture import Architecture

Candidates = list[list[int]]
"""Block indices of the source, the likeliest first, for each block of the run."""
Positions = list[tuple[int, int]]
"""(stage, index in the stage) of each block."""


def g_candidates(target: Architecture, source: Architecture) -> Candidates:
    """Return the candidates for the generator's blocks. Its stages all start at the same resolution."""
    return _candidates(_g_positions(target), _g_positions(source), 0, _octaves(target, source))


def d_candidates(target: Architecture, source: Architecture) -> Candidates:
    """Return the candidates for the discriminator's blocks. Its stages start at the image."""
    return _candidates(_d_positions(target), _d_positions(source), _octaves(target, source), 0)


def _octaves(target: Architecture, source: Architecture) -> int:
    """Return log2(source resolution / target resolution); both are powers of 2."""
    return source.resolution.bit_length() - target.resolution.bit_length()


def _candidates(target: Positions, source: Positions, *stage_offsets: int) -> Candidates:
    """Return the source's blocks with the same index in the stages at `stage_offsets`, in this order."""
    block_at = {position: k for k, position in enumerate(source)}
    positions = [dict.fromkeys((stage + offset, index) for offset in stage_offsets) for stage, index in target]
    return [[block_at[position] for position in likely if position in block_at] for likely in positions]


def _g_positions(architecture: Architecture) -> Positions:
    """Return G's positions. Indices count from the end of a stage, whose last block doubles the resolution."""
    stages = len(G_WIDTHS[architecture.resolution]) - 1
    return [(stage, index) for stage in range(stages) for index in reversed(range(architecture.depth))]


def _d_positions(architecture: Architecture) -> Positions:
    """Return D's positions. Indices count from the start of a stage, whose first block halves the resolution."""
    # An input convolution is not a block.
    stages = len(D_WIDTHS[architecture.resolution]) - FAMILIES[architecture.family].d_input_conv
    return [(stage, index) for stage in range(stages) for index in range(architecture.d_depth)]
