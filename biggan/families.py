"""The families of networks as plain numbers: widths, resolutions, latent chunks, and the settings each one fixes.

The config validates against these numbers, the networks are built from them, and importers recognise networks by
them. A new family is an entry of FAMILIES here, a module of networks in `biggan.models`, and an entry of NETWORKS in
`biggan.models.architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FamilyName = Literal["biggan", "biggan-deep"]

BOTTOM_WIDTH = 4
"""Height and width, in pixels, of the generator's first feature map."""

G_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Resolution -> widths in multiples of `channels`: of the first feature map, then after each stage. Every stage doubles
the resolution (Brock et al. 2018, appendix B, tables 4 to 9)."""

D_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Resolution -> discriminator widths, first to last. Stages halve the resolution down to `smallest_map` pixels."""


@dataclass(frozen=True)
class Family:
    """Facts about one family that need no torch."""

    splits_latent: bool
    """True: hierarchical z is split into chunks, one per block. False: every block receives all of z."""
    has_depth: bool
    """True: a stage has several blocks (`model.depth`)."""
    d_input_conv: bool
    """True: the discriminator's first width belongs to a convolution before its blocks."""
    bottleneck: int = 1
    """Blocks are narrower inside by this factor, so `channels` must be a multiple of it."""
    fixed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """Keys of `model` that this family fixes: key -> (value, reason)."""


FAMILIES: dict[FamilyName, Family] = {
    "biggan": Family(splits_latent=True, has_depth=False, d_input_conv=False),
    "biggan-deep": Family(
        splits_latent=False,
        has_depth=True,
        d_input_conv=True,
        bottleneck=4,
        fixed={
            "hierarchical_z": (True, "biggan-deep always feeds z to every block"),
            "residual": (True, "biggan-deep has bottleneck blocks only"),
            "d_conv_shortcuts": ("downsampling", "biggan-deep concatenates its shortcuts"),
        },
    ),
}


def smallest_map(resolution: int) -> int:
    """Return the height and width, in pixels, of the discriminator's last feature maps."""
    return 8 if resolution == 32 else 4


def latent_chunks(family: FamilyName, resolution: int, hierarchical: bool) -> int:
    """Return the number of equal chunks z is split into: one for the first layer and, if split, one per block."""
    return len(G_WIDTHS[resolution]) if hierarchical and FAMILIES[family].splits_latent else 1


def g_resolutions(resolution: int) -> list[int]:
    """Return the resolutions, in pixels, of the generator's feature maps after each stage, ascending."""
    return [BOTTOM_WIDTH << stage for stage in range(1, len(G_WIDTHS[resolution]))]


def d_resolutions(resolution: int) -> list[int]:
    """Return the resolutions, in pixels, of the discriminator's feature maps after each halving, ascending."""
    return [r // 2 for r in g_resolutions(resolution) if r // 2 >= smallest_map(resolution)]
