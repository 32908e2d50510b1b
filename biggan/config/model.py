"""The `model` section: architecture of both networks."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from biggan import families
from biggan.config.sections import Positive, Section
from biggan.families import FAMILIES, FamilyName

MAX_WIDTH, MAX_CLASSES = 2**16, 10**6


class ModelConfig(Section):
    """Architecture of generator and discriminator (Brock et al. 2018, appendix B), and of earlier GANs by their
    settings."""

    family: FamilyName = "biggan"
    """`biggan`, or `biggan-deep`: bottleneck blocks, `depth` of them per stage, and the whole of z in every
    BatchNorm."""
    resolution: Literal[32, 64, 128, 256, 512]
    """Image height and width, in pixels."""
    image_channels: Literal[1, 3] = 3
    """Image channels: 3 for colour, 1 for a data set packed with `--grey`."""
    channels: Annotated[int, Field(gt=0, le=4096)]
    """Width multiplier `ch` of the networks (96 in the paper, 128 for BigGAN-deep)."""
    d_channels: Annotated[int, Field(ge=0, le=4096)] = 0
    """Width multiplier of the discriminator; 0 uses `channels`."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Blocks per stage, 1 to 64; only for `biggan-deep`."""
    d_depth: Annotated[int, Field(ge=0, le=64)] = 0
    """Blocks per stage of the discriminator, 0 to 64; 0 uses `depth`."""
    classes: Annotated[int, Field(gt=0, le=MAX_CLASSES)]
    """Number of classes; 1 is unconditional."""
    z_dim: Annotated[int, Field(gt=0, le=MAX_WIDTH)]
    """Dimension of the latent z. With `hierarchical_z` it is rounded down to a multiple of the number of chunks (one
    per block and one for the first layer), as in the paper's code."""
    class_embedding_dim: Annotated[int, Field(ge=0, le=MAX_WIDTH)] = 128
    """Dimension of the class embedding shared by all conditional BatchNorms; 0 gives each BatchNorm its own table."""
    hierarchical_z: bool = True
    """Feed a chunk of z to the first layer and to every block (needs a shared embedding). `biggan-deep` always feeds
    the whole of z to every block."""
    g_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, of the generator's feature maps that are followed by self-attention."""
    d_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, of the discriminator's feature maps that are followed by self-attention."""
    g_spectral_norm: bool = True
    """Use spectral normalization in the generator (SN-GAN does not)."""
    d_spectral_norm: bool = True
    """Use spectral normalization in the discriminator (WGAN-GP and DCGAN do not)."""
    d_normalization: Literal["none", "layer", "batch"] = "none"
    """Normalization in the discriminator's blocks before each ReLU but the first: `layer`, over all channels and
    positions of one image, as WGAN-GP has it; `batch`, as DCGAN has it: over images of one kind, real or fake, of all
    processes."""
    residual: bool = True
    """Use residual blocks of two convolutions. If false, a block has one convolution and no shortcut, as in DCGAN."""
    d_conv_shortcuts: Literal["downsampling", "widening"] = "downsampling"
    """Discriminator blocks whose shortcut has a convolution: all `downsampling` blocks, as in the PyTorch code, or only
    `widening` ones, as in the TensorFlow code (fewer parameters at 256 px and above)."""
    initialization: Literal["orthogonal", "glorot", "normal"] = "orthogonal"
    """Initialization of the weights: `orthogonal`, `glorot` (uniform), or `normal`: N(0, 0.02)."""
    sn_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Term added to norms in the power iteration of spectral normalization, above 0."""
    bn_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Term added to variances in BatchNorm, above 0."""

    @property
    def latent_chunks(self) -> int:
        """Number of equal chunks z is split into: one for the first layer and, when hierarchical, one per block."""
        return families.latent_chunks(self.family, self.resolution, self.hierarchical_z)

    @property
    def effective_z_dim(self) -> int:
        """`z_dim` rounded down to a multiple of `latent_chunks`."""
        return self.z_dim // self.latent_chunks * self.latent_chunks

    @model_validator(mode="after")
    def _check_networks(self) -> ModelConfig:
        for key, requested, available in (
            ("g_attention", self.g_attention, families.g_resolutions(self.resolution)),
            ("d_attention", self.d_attention, families.d_resolutions(self.resolution)),
        ):
            for r in requested:
                if r not in available:
                    nearest = min(available, key=lambda a: abs(math.log2(a / r)))
                    raise ValueError(
                        f"model.{key}: a network of {self.resolution} px has no feature maps of {r} px; "
                        f"it has {', '.join(map(str, available))} (nearest: {nearest})"
                    )
            if len(set(requested)) != len(requested):
                raise ValueError(f"model.{key}: {list(requested)} contains a resolution twice; remove one")
        if self.hierarchical_z and not self.class_embedding_dim:
            raise ValueError(
                "model.hierarchical_z: true needs a shared class embedding; "
                "set model.class_embedding_dim (128 in the paper) or model.hierarchical_z=false"
            )
        if self.effective_z_dim == 0:
            raise ValueError(
                f"model.z_dim: {self.z_dim} is too small: hierarchical z has {self.latent_chunks} chunks "
                f"at {self.resolution} px; use at least {self.latent_chunks}"
            )
        return self

    @model_validator(mode="after")
    def _check_family(self) -> ModelConfig:
        family = FAMILIES[self.family]
        for key, (value, reason) in family.fixed.items():
            if getattr(self, key) != value:
                raise ValueError(f"model.{key}: {reason}; remove the key")
        if not family.has_depth and (self.depth, self.d_depth) != (2, 0):
            raise ValueError(
                "model.depth: blocks per stage of family biggan-deep; remove the key, or set model.family=biggan-deep"
            )
        if not self.residual and self.d_conv_shortcuts != "downsampling":
            raise ValueError("model.d_conv_shortcuts: without model.residual there are no shortcuts; remove the key")
        for key, channels in (("channels", self.channels), ("d_channels", self.d_channels)):
            if channels % family.bottleneck:
                raise ValueError(
                    f"model.{key}: blocks of {self.family} are narrower inside by {family.bottleneck}; "
                    f"use a multiple of {family.bottleneck}, not {channels}"
                )
        return self
