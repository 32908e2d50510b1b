"""The architecture is inferred from tensor shapes alone."""

from dataclasses import replace

import pytest

from biggan.generation.architecture_json import meta_networks
from biggan.importing.shapes import UNKNOWN_EPS, infer_architecture
from biggan.models.architecture import Architecture

PAPER = Architecture(
    family="biggan",
    resolution=128,
    image_channels=3,
    channels=96,
    d_channels=96,
    depth=1,
    d_depth=1,
    classes=1000,
    z_dim=120,
    class_embedding_dim=128,
    hierarchical=True,
    g_attention=(64,),
    d_attention=(64,),
    g_spectral_norm=True,
    residual=True,
    d_conv_shortcuts="downsampling",
    sn_eps=UNKNOWN_EPS,
    bn_eps=UNKNOWN_EPS,
)
DEEP = replace(PAPER, family="biggan-deep", channels=128, d_channels=128, depth=2, d_depth=2, z_dim=128)
SETTINGS = {
    "biggan 128": PAPER,
    "biggan 256": replace(PAPER, resolution=256, z_dim=140, g_attention=(128,)),
    "biggan 512": replace(PAPER, resolution=512, z_dim=160, g_attention=(16, 64), d_attention=(4, 256)),
    "biggan 64, grey, another D": replace(PAPER, resolution=64, image_channels=1, d_channels=32, d_attention=()),
    "shared, not hierarchical": replace(PAPER, hierarchical=False, z_dim=100),
    "one table per BatchNorm": replace(
        PAPER, resolution=32, hierarchical=False, class_embedding_dim=0, g_attention=(8,), d_attention=(8, 16)
    ),
    "no spectral norm": replace(PAPER, g_spectral_norm=False),
    "deep 128": DEEP,
    "deep 512": replace(DEEP, resolution=512, g_attention=(8, 512), d_attention=(4,)),
    "deep 256, other depths": replace(DEEP, resolution=256, depth=3, d_depth=1),
    "deep 32": replace(DEEP, resolution=32, depth=4, d_depth=3, g_attention=(), d_attention=(8,), z_dim=20),
}


@pytest.mark.parametrize("architecture", SETTINGS.values(), ids=SETTINGS.keys())
def test_architecture_is_inferred_from_shapes(architecture):
    G, D = (network.state_dict() for network in meta_networks(architecture))
    assert infer_architecture(G, D, "G", "D") == architecture
    like_g = replace(architecture, d_channels=architecture.channels, d_depth=architecture.depth, d_attention=())
    assert infer_architecture(G, None, "G", "D") == like_g
