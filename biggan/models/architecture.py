"""The record that determines both networks' shapes and functions; a config describes it and an export stores it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from biggan.families import FAMILIES, FamilyName, latent_chunks
from biggan.models import biggan, biggan_deep
from biggan.models.networks import Discriminator, Generator, Norm, normalization

if TYPE_CHECKING:
    from biggan.config.model import ModelConfig


ADDED = {"d_spectral_norm": True, "d_normalization": "none"}
"""Settings that exports of version 0.1 do not have, with the values that describe those."""


@dataclass(frozen=True)
class Architecture:
    """Both networks. `biggan.config.model.ModelConfig` documents each setting."""

    family: FamilyName
    resolution: int
    image_channels: int
    channels: int
    d_channels: int
    depth: int
    """Blocks per stage in G; 1 for the family `biggan`."""
    d_depth: int
    classes: int
    z_dim: int
    """Size of z, a multiple of `latent_chunks`."""
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
    """True: latents are truncated at 2 and truncation multiplies them. False: truncation is the threshold itself. True
    only for the released BigGAN-deep generators (`biggan import`)."""
    d_spectral_norm: bool = True
    d_normalization: str = "none"

    @property
    def latent_chunks(self) -> int:
        """Number of equal chunks z is split into."""
        return latent_chunks(self.family, self.resolution, self.hierarchical)

    @property
    def feeds_latent_to_blocks(self) -> bool:
        """True if z conditions the blocks, beside the class embedding."""
        return self.hierarchical or not FAMILIES[self.family].splits_latent

    @property
    def d_norm(self) -> Norm:
        """The builder of the discriminator's normalization."""
        return normalization(self.d_normalization, self.bn_eps)

    def generator(self) -> Generator:
        """Build the generator, with torch's default weights."""
        generator = NETWORKS[self.family].generator(self)
        generator.scaled_latents = self.scaled_latents
        return generator

    def discriminator(self) -> Discriminator:
        """Build the discriminator, with torch's default weights."""
        return NETWORKS[self.family].discriminator(self)

    def to_json(self) -> dict[str, Any]:
        """Return names and values; `biggan.generation.architecture_json.from_json` reads them back.

        Settings that version 0.1 did not have are left out at their defaults: its exports keep their digests.
        """
        return {name: value for name, value in asdict(self).items() if ADDED.get(name, ...) != value}

    def digest(self) -> str:
        """Return the hex SHA-256 of the canonical JSON: it identifies the networks that tensors were written for."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def configured_architecture(model: ModelConfig) -> Architecture:
    """Return the networks that a config describes."""
    has_depth = FAMILIES[model.family].has_depth
    return Architecture(
        family=model.family,
        resolution=model.resolution,
        image_channels=model.image_channels,
        channels=model.channels,
        d_channels=model.d_channels or model.channels,
        depth=model.depth if has_depth else 1,
        d_depth=(model.d_depth or model.depth) if has_depth else 1,
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
        d_spectral_norm=model.d_spectral_norm,
        d_normalization=model.d_normalization,
    )


class FamilyNetworks(NamedTuple):
    """The builders of one family's networks."""

    generator: Callable[[Architecture], Generator]
    discriminator: Callable[[Architecture], Discriminator]


NETWORKS: dict[FamilyName, FamilyNetworks] = {
    "biggan": FamilyNetworks(biggan.build_generator, biggan.build_discriminator),
    "biggan-deep": FamilyNetworks(biggan_deep.build_generator, biggan_deep.build_discriminator),
}
