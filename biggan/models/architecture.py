"""All that the networks' shapes and functions depend on, in one record: what a config describes and an export says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from biggan.config.model import ModelConfig
from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator
from biggan.models.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator
from biggan.models.networks import G_WIDTHS, Discriminator, Generator

FAMILIES = ("biggan", "biggan-deep")


@dataclass(frozen=True)
class Architecture:
    """Both networks. biggan.config.ModelConfig says what each setting means."""

    family: str
    """One of FAMILIES."""
    resolution: int
    image_channels: int
    channels: int
    d_channels: int
    depth: int
    """Blocks a stage in G; 1 for the family `biggan`."""
    d_depth: int
    classes: int
    z_dim: int
    """A multiple of the number of chunks, where z is cut."""
    class_embedding_dim: int
    hierarchical: bool
    g_attention: tuple[int, ...]
    d_attention: tuple[int, ...]
    g_spectral_norm: bool
    residual: bool
    d_conv_shortcuts: str
    sn_eps: float
    bn_eps: float
    scaled_latents: bool = False
    """Whether truncation is the factor of latents that are cut at 2, and not the threshold they are cut at: of the
    released BigGAN-deep generators (`biggan import`) alone."""

    @property
    def latent_chunks(self) -> int:
        """Equal parts that z is cut into."""
        return latent_chunks(self.family, self.resolution, self.hierarchical)

    def generator(self) -> Generator:
        """The generator, with torch's default weights."""
        generator = self._generator()
        generator.scaled_latents = self.scaled_latents
        return generator

    def _generator(self) -> Generator:
        sn_eps = self.sn_eps if self.g_spectral_norm else None
        if self.family == "biggan-deep":
            return BigGANDeepGenerator(
                resolution=self.resolution,
                channels=self.channels,
                depth=self.depth,
                classes=self.classes,
                z_dim=self.z_dim,
                class_embedding_dim=self.class_embedding_dim,
                attention=self.g_attention,
                sn_eps=sn_eps,
                bn_eps=self.bn_eps,
                image_channels=self.image_channels,
            )
        return BigGANGenerator(
            resolution=self.resolution,
            channels=self.channels,
            classes=self.classes,
            z_dim=self.z_dim,
            class_embedding_dim=self.class_embedding_dim,
            hierarchical=self.hierarchical,
            attention=self.g_attention,
            sn_eps=sn_eps,
            bn_eps=self.bn_eps,
            image_channels=self.image_channels,
            residual=self.residual,
        )

    def discriminator(self) -> Discriminator:
        """The discriminator, with torch's default weights."""
        if self.family == "biggan-deep":
            return BigGANDeepDiscriminator(
                resolution=self.resolution,
                channels=self.d_channels,
                depth=self.d_depth,
                classes=self.classes,
                attention=self.d_attention,
                sn_eps=self.sn_eps,
                image_channels=self.image_channels,
            )
        return BigGANDiscriminator(
            resolution=self.resolution,
            channels=self.d_channels,
            classes=self.classes,
            attention=self.d_attention,
            sn_eps=self.sn_eps,
            image_channels=self.image_channels,
            residual=self.residual,
            conv_shortcuts=self.d_conv_shortcuts,
        )

    def to_json(self) -> dict[str, Any]:
        """Names and values; `biggan.generation.architecture_json.from_json` reads them back."""
        return asdict(self)

    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON: what tensors were written for, also where no shape depends on it."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def latent_chunks(family: str, resolution: int, hierarchical: bool) -> int:
    """Equal parts that z is cut into: one for the first layer and one per block; BigGAN-deep does not cut it."""
    return len(G_WIDTHS[resolution]) if hierarchical and family == "biggan" else 1


def configured_architecture(model: ModelConfig) -> Architecture:
    """The networks that a config describes."""
    deep = model.family == "biggan-deep"
    return Architecture(
        family=model.family,
        resolution=model.resolution,
        image_channels=model.image_channels,
        channels=model.channels,
        d_channels=model.d_channels or model.channels,
        depth=model.depth if deep else 1,
        d_depth=(model.d_depth or model.depth) if deep else 1,
        classes=model.classes,
        z_dim=model.effective_z_dim,
        class_embedding_dim=model.class_embedding_dim,
        hierarchical=model.hierarchical_z,
        g_attention=model.g_attention,
        d_attention=model.d_attention,
        g_spectral_norm=model.g_spectral_norm,
        residual=model.residual,
        d_conv_shortcuts=model.d_conv_shortcuts,
        sn_eps=model.sn_eps,
        bn_eps=model.bn_eps,
    )
