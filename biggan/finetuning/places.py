"""Which block of a source does what a block of the run's network is to do."""

from __future__ import annotations

from biggan.models.architecture import Architecture
from biggan.models.networks import BOTTOM_WIDTH, D_WIDTHS, G_WIDTHS

Candidates = list[list[int]]
"""For each block, blocks of the source, the likeliest first."""


def g_candidates(target: Architecture, source: Architecture) -> Candidates:
    """The generator's block that has the same resolution; where stages differ in depth, counted from its last, which
    doubles the resolution."""
    theirs = {place: k for k, place in enumerate(_g_places(source))}
    return [[theirs[place]] if place in theirs else [] for place in _g_places(target)]


def d_candidates(target: Architecture, source: Architecture) -> Candidates:
    """The discriminator's block that has the same resolution, else the one as far from the image.

    D's widths grow with the distance from the image: at 64 and 128 px no two blocks of one resolution have the same,
    but all the first ones have, and what these see of an image, its edges and textures, is much the same an octave off.
    """
    theirs = {place: k for k, place in enumerate(_d_places(source))}
    later = source.resolution.bit_length() - target.resolution.bit_length()  # stages, that many halvings on
    candidates = []
    for stage, position in _d_places(target):
        places = dict.fromkeys([(stage + later, position), (stage, position)])
        candidates.append([theirs[place] for place in places if place in theirs])
    return candidates


def _g_places(networks: Architecture) -> list[tuple[int, int]]:
    """Of each block: pixels of its stage's input, and how many blocks of the stage follow."""
    stages = len(G_WIDTHS[networks.resolution]) - 1
    return [(BOTTOM_WIDTH * 2**stage, after) for stage in range(stages) for after in reversed(range(networks.depth))]


def _d_places(networks: Architecture) -> list[tuple[int, int]]:
    """Of each block: its stage, from the image on, and its number in the stage."""
    # BigGAN-deep's input convolution is no block.
    stages = len(D_WIDTHS[networks.resolution]) - (networks.family == "biggan-deep")
    return [(stage, k) for stage in range(stages) for k in range(networks.d_depth)]
