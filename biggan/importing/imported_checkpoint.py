"""The result of an importer, equal for all formats, and its description as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from biggan.config import Config
from biggan.errors import InputError
from biggan.families import FAMILIES
from biggan.generation.architecture_json import meta_networks
from biggan.models.architecture import Architecture

State = Mapping[str, Tensor]
MOST_STEPS = 10**12


def parse_step(value: object, what: str) -> int | None:
    """Return the step stored in a file, or None if there is none.

    Raises InputError, which starts with `what`, unless it is a whole number from 0 to MOST_STEPS.
    """
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_STEPS:
        text = " ".join(repr(value).split())[:80]
        raise InputError(f"{what}: {text} is no step count; save a whole number from 0 to {MOST_STEPS:,}, or none")
    return value


@dataclass(frozen=True)
class ImportedCheckpoint:
    """Networks with biggan's tensor names and shapes, in float32, and the known state of their training."""

    format: str
    """Name of the source's format, in words."""
    networks: Architecture
    ema: State
    """The EMA generator, or the only generator of the source."""
    generator: State | None = None
    discriminator: State | None = None
    config: Config | None = None
    """Config of the run that continues training; None for a generator published alone."""
    g_optimizer: State = field(default_factory=dict)
    """Adam's state in the form of `Engine.optimizer_state`. Empty: Adam starts from zero."""
    d_optimizer: State = field(default_factory=dict)
    standing: Mapping[str, State] = field(default_factory=dict)
    """BatchNorm statistics stored in the source, by `truncation_key`."""
    step: int | None = None
    """Number of generator steps taken; None if unknown."""
    images_seen: int | None = None
    """Number of real images seen by D; None if unknown."""
    notes: tuple[str, ...] = ()
    """Missing and ignored parts of the source, one line each."""

    @property
    def is_run(self) -> bool:
        """True if training can continue: both networks exist."""
        return self.generator is not None and self.discriminator is not None


def summary(imported: ImportedCheckpoint) -> list[tuple[str, str]]:
    """Return the rows (label, value) that describe an import to the user."""
    networks = imported.networks
    pair = imported.is_run
    counts = [sum(p.numel() for p in network.parameters()) for network in meta_networks(networks)]
    has_depth = FAMILIES[networks.family].has_depth
    return [
        ("format", imported.format),
        ("family", networks.family),
        ("images", f"{networks.resolution} px, {networks.image_channels} channels, {networks.classes} classes"),
        ("channels", _both("", networks.channels, networks.d_channels, pair)),
        *([("blocks per stage", _both("", networks.depth, networks.d_depth, pair))] if has_depth else []),
        ("attention", _both(" px", _sizes(networks.g_attention), _sizes(networks.d_attention), pair)),
        ("latent", _latent(networks)),
        ("class embedding", str(networks.class_embedding_dim or "none: each BatchNorm has its own table")),
        ("spectral norm in G", "yes" if networks.g_spectral_norm else "folded into the weights, or none"),
        ("eps of SN, BN", f"{networks.sn_eps:g}, {networks.bn_eps:g}"),
        ("parameters", _both("", f"{counts[0]:,}", f"{counts[1]:,}", pair)),
        *([("statistics", f"for {len(imported.standing) - 1} truncations, as published")] if imported.standing else []),
        ("step", "unknown" if imported.step is None else f"{imported.step:,}"),
        *([("optimizers", _optimizers(imported))] if pair else []),
        *(("note", note) for note in imported.notes),
    ]


def _both(unit: str, g: object, d: object, pair: bool) -> str:
    return f"G {g}{unit}, D {d}{unit}" if pair else f"G {g}{unit}"


def _sizes(resolutions: tuple[int, ...]) -> str:
    return " and ".join(map(str, resolutions)) or "none"


def _latent(networks: Architecture) -> str:
    truncation = "truncated at 2, times the truncation" if networks.scaled_latents else "truncated at the truncation"
    chunks = networks.latent_chunks
    if not FAMILIES[networks.family].splits_latent:
        return f"{networks.z_dim}, undivided to every block, {truncation}"
    layers = f"{chunks} chunks, hierarchical" if chunks > 1 else "first layer only"
    return f"{networks.z_dim}, {layers}, {truncation}"


def _optimizers(imported: ImportedCheckpoint) -> str:
    known = [name for name, state in (("G", imported.g_optimizer), ("D", imported.d_optimizer)) if state]
    return f"Adam's moments of {' and '.join(known)}" if known else "Adam starts from zero"
