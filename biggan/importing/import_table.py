"""What an importer found, as a table's rows."""

from __future__ import annotations

from biggan.config.families import FAMILIES
from biggan.generation.architecture_json import meta_networks
from biggan.importing.imported_checkpoint import ImportedCheckpoint
from biggan.models.architecture import Architecture


def rows(found: ImportedCheckpoint) -> list[tuple[str, str]]:
    """(what, what it is), in words."""
    networks = found.networks
    pair = found.is_run
    counts = [sum(p.numel() for p in network.parameters()) for network in meta_networks(networks)]
    has_depth = FAMILIES[networks.family].has_depth
    return [
        ("format", found.format),
        ("family", networks.family),
        ("images", f"{networks.resolution} px, {networks.image_channels} channels, {networks.classes} classes"),
        ("channels", _both("", networks.channels, networks.d_channels, pair)),
        *([("blocks a stage", _both("", networks.depth, networks.d_depth, pair))] if has_depth else []),
        ("attention", _both(" px", _sizes(networks.g_attention), _sizes(networks.d_attention), pair)),
        ("latent", _latent(networks)),
        ("class embedding", str(networks.class_embedding_dim or "each BatchNorm has a table of its own")),
        ("spectral norm in G", "yes" if networks.g_spectral_norm else "folded in, or none"),
        ("eps of SN, BN", f"{networks.sn_eps:g}, {networks.bn_eps:g}"),
        ("parameters", _both("", f"{counts[0]:,}", f"{counts[1]:,}", pair)),
        *([("statistics", f"for {len(found.standing) - 1} truncations, as published")] if found.standing else []),
        ("step", "unknown" if found.step is None else f"{found.step:,}"),
        *([("optimizers", _optimizers(found))] if pair else []),
        *(("missing", note) for note in found.notes),
    ]


def _both(unit: str, g: object, d: object, pair: bool) -> str:
    return f"G {g}{unit}, D {d}{unit}" if pair else f"G {g}{unit}"


def _sizes(resolutions: tuple[int, ...]) -> str:
    return " and ".join(map(str, resolutions)) or "none at any"


def _latent(networks: Architecture) -> str:
    cut = "cut at 2, truncation multiplies it" if networks.scaled_latents else "cut at the truncation"
    chunks = networks.latent_chunks
    if not FAMILIES[networks.family].splits_latent:
        return f"{networks.z_dim}, whole in every block, {cut}"
    used = f"{chunks} chunks, hierarchical" if chunks > 1 else "in the first layer alone"
    return f"{networks.z_dim}, {used}, {cut}"


def _optimizers(found: ImportedCheckpoint) -> str:
    known = [name for name, state in (("G", found.g_optimizer), ("D", found.d_optimizer)) if state]
    return f"Adam's moments of {' and '.join(known)}" if known else "Adam starts anew"
