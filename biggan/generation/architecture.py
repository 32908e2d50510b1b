"""What networks an export holds, as `generator.json` says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from biggan.models.biggan import G_WIDTHS, Discriminator, Generator


@dataclass(frozen=True)
class Architecture:
    """The arguments of both networks (`biggan.models.biggan`)."""

    family: str
    resolution: int
    channels: int
    classes: int
    z_dim: int
    class_embedding_dim: int
    hierarchical: bool
    g_attention: tuple[int, ...]
    d_attention: tuple[int, ...]
    sn_eps: float
    bn_eps: float

    def generator(self) -> Generator:
        """With torch's default weights."""
        return Generator(
            resolution=self.resolution,
            channels=self.channels,
            classes=self.classes,
            z_dim=self.z_dim,
            class_embedding_dim=self.class_embedding_dim,
            hierarchical=self.hierarchical,
            attention=self.g_attention,
            sn_eps=self.sn_eps,
            bn_eps=self.bn_eps,
        )

    def discriminator(self) -> Discriminator:
        """With torch's default weights."""
        return Discriminator(
            resolution=self.resolution,
            channels=self.channels,
            classes=self.classes,
            attention=self.d_attention,
            sn_eps=self.sn_eps,
        )

    def to_json(self) -> dict[str, Any]:
        """Names and values; `from_json` reads them back."""
        return asdict(self)


def from_json(found: Any) -> Architecture:
    """The architecture of a parsed `generator.json`; raises ValueError, which names the key, if it is none."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    for key in {field.name for field in fields(Architecture)} ^ found.keys():
        raise ValueError(f"{key}: {'not a known key' if key in found else 'missing'}")
    if found["family"] != "biggan" or found["resolution"] not in G_WIDTHS:
        raise ValueError(f"no {found['family']} generator of {found['resolution']} px is known")
    for key in ("channels", "classes", "z_dim"):
        if type(found[key]) is not int or found[key] < 1:
            raise ValueError(f"{key}: {found[key]} is not a count")
    for key in ("g_attention", "d_attention"):
        if not isinstance(found[key], list):
            raise ValueError(f"{key}: {found[key]} is not a list")
    embedding = found["class_embedding_dim"]
    if type(embedding) is not int or embedding < 0 or (found["hierarchical"] and not embedding):
        raise ValueError(f"class_embedding_dim: {embedding} is not a size")
    if found["hierarchical"] and found["z_dim"] % len(G_WIDTHS[found["resolution"]]):
        raise ValueError(f"z_dim: {found['z_dim']} is no multiple of the {len(G_WIDTHS[found['resolution']])} chunks")
    attention = {key: tuple(found[key]) for key in ("g_attention", "d_attention")}
    return Architecture(**{**found, **attention})
