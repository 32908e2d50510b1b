"""The networks' keys."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from biggan.config import families
from biggan.config.families import FAMILIES, FamilyName
from biggan.config.section import NonNegative, Positive, Section


class ModelConfig(Section):
    """The generator and discriminator (Brock et al. 2018, appendix B), and by their settings those before them."""

    family: FamilyName = "biggan"
    """`biggan`; `biggan-deep` has bottleneck blocks, `depth` of them a stage, and z whole in every BatchNorm."""
    resolution: Literal[32, 64, 128, 256, 512]
    """Image height and width, pixels."""
    image_channels: Literal[1, 3] = 3
    """3 for colour, 1 for a data set packed with `--grey`."""
    channels: Positive
    """Width multiplier `ch` of the networks (96 in the paper, 128 for BigGAN-deep)."""
    d_channels: NonNegative = 0
    """The discriminator's; 0 takes `channels`."""
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    """Blocks a stage; of `biggan-deep` alone."""
    d_depth: Annotated[int, Field(ge=0, le=64)] = 0
    """The discriminator's; 0 takes `depth`."""
    classes: Positive
    """Number of classes; 1 is unconditional."""
    z_dim: Positive
    """Size of the latent. With `hierarchical_z` it is rounded down to a multiple of the number of chunks
    (one per block and one for the first layer), as the paper's code does."""
    class_embedding_dim: NonNegative = 128
    """Size of the class embedding shared by all conditional BatchNorms; 0 gives each its own table."""
    hierarchical_z: bool = True
    """Feed a chunk of z to every block besides the first layer (needs a shared embedding). `biggan-deep` always feeds
    the whole of z to every block."""
    g_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, after which the generator has self-attention."""
    d_attention: tuple[Positive, ...] = ()
    """Resolutions, in pixels, after which the discriminator has self-attention."""
    g_spectral_norm: bool = True
    """Spectral normalization in the generator (SN-GAN has none there). The discriminator always has it."""
    residual: bool = True
    """Blocks of two convolutions beside a shortcut; without, of one convolution, as in a DCGAN."""
    d_conv_shortcuts: Literal["downsampling", "widening"] = "downsampling"
    """Which of the discriminator's shortcuts have a convolution: of every `downsampling` block, as in the PyTorch
    code, or of those alone that are `widening`, as in TensorFlow's (fewer parameters from 256 px on)."""
    initialization: Literal["orthogonal", "glorot", "normal"] = "orthogonal"
    """`orthogonal`; `glorot`, uniform; or `normal` for N(0, 0.02)."""
    sn_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to norms in the power iteration of spectral normalization."""
    bn_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to variances in BatchNorm."""

    @property
    def latent_chunks(self) -> int:
        """Number of equal chunks z is split into: one for the first layer and, when hierarchical, one per block."""
        return families.latent_chunks(self.family, self.resolution, self.hierarchical_z)

    @property
    def effective_z_dim(self) -> int:
        """`z_dim` rounded down to a multiple of `latent_chunks`."""
        return self.z_dim // self.latent_chunks * self.latent_chunks

    @model_validator(mode="after")
    def _networks_exist(self) -> ModelConfig:
        for key, wanted, available in (
            ("g_attention", self.g_attention, families.g_resolutions(self.resolution)),
            ("d_attention", self.d_attention, families.d_resolutions(self.resolution)),
        ):
            for r in wanted:
                if r not in available:
                    nearest = min(available, key=lambda a: abs(math.log2(a / r)))
                    raise ValueError(
                        f"model.{key}: a {self.resolution} px network has no {r} px features; "
                        f"it has {', '.join(map(str, available))} (nearest: {nearest})"
                    )
            if len(set(wanted)) != len(wanted):
                raise ValueError(f"model.{key}: {list(wanted)} names a resolution twice")
        if self.hierarchical_z and not self.class_embedding_dim:
            raise ValueError(
                "model.hierarchical_z: needs a shared class embedding; "
                "set model.class_embedding_dim (128 in the paper) or model.hierarchical_z=false"
            )
        if self.effective_z_dim == 0:
            raise ValueError(
                f"model.z_dim: {self.z_dim} is less than the {self.latent_chunks} chunks hierarchical z "
                f"needs at {self.resolution} px; use at least {self.latent_chunks}"
            )
        return self

    @model_validator(mode="after")
    def _family_has(self) -> ModelConfig:
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
