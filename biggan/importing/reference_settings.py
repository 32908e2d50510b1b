"""Translate the reference code's settings, stored in its `state_dict.pth`, to sections of biggan's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biggan.config import divisors
from biggan.errors import InputError
from biggan.models.architecture import Architecture

DEFAULTS: dict[str, Any] = {
    "batch_size": 64,
    "num_D_steps": 2,
    "num_D_accumulations": 1,
    "num_G_accumulations": 1,
    "G_batch_size": 0,
    "G_lr": 5e-5,
    "D_lr": 2e-4,
    "G_B1": 0.0,
    "D_B1": 0.0,
    "G_B2": 0.999,
    "D_B2": 0.999,
    "adam_eps": 1e-8,
    "BN_eps": 1e-5,
    "SN_eps": 1e-8,
    "G_ortho": 0.0,
    "D_ortho": 0.0,
    "num_G_SV_itrs": 1,
    "num_D_SV_itrs": 1,
    "z_var": 1.0,
    "G_init": "ortho",
    "ema_decay": 0.9999,
    "ema_start": 0,
    "augment": False,
    "split_D": False,
    "seed": 0,
    "norm_style": "bn",
    "G_nl": "relu",
    "D_nl": "relu",
}
"""Defaults of the reference code's command line (utils.py, `prepare_parser`) for settings that no tensor shows."""
IN_TENSORS: dict[str, type] = {
    "model": str,
    "resolution": int,
    "n_classes": int,
    "G_ch": int,
    "D_ch": int,
    "D_wide": bool,
    "G_shared": bool,
    "shared_dim": int,
    "hier": bool,
    "dim_z": int,
    "G_attn": str,
    "D_attn": str,
    "G_depth": int,
    "D_depth": int,
}
"""Settings that the tensors show, too, with their types."""
INITIALIZATIONS = {"ortho": "orthogonal", "N02": "normal", "glorot": "glorot", "xavier": "glorot"}
RELU = ("relu", "inplace_relu", "ir")
STREAMS = 8
NO_DATA = "data/imported"
"""Placeholder until the user sets `data.path`."""


def check_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return DEFAULTS updated from `config`.

    Raises InputError, starting with `where`, for a value of another type or a kind of network that biggan lacks.
    """
    settings = {}
    for key, default in DEFAULTS.items():
        value = config.get(key, default)
        kinds = (int, float) if type(default) is float else (type(default),)
        _check_kind(key, value, kinds, where)
        settings[key] = value
    for key, supported in (("norm_style", ("bn",)), ("G_nl", RELU), ("D_nl", RELU), ("G_init", tuple(INITIALIZATIONS))):
        if settings[key] not in supported:
            raise InputError(
                f"{where}: {key}: {settings[key]} is not supported, only {', '.join(supported)}; it cannot be imported"
            )
    if settings["z_var"] != 1:
        raise InputError(
            f"{where}: z_var: {settings['z_var']} is not supported, only 1; these networks cannot be imported"
        )
    return settings


def _check_kind(key: str, value: object, kinds: tuple[type, ...], where: str) -> None:
    if type(value) not in kinds:
        raise InputError(
            f"{where}: {key}: {' '.join(repr(value).split())[:80]} is not of type {kinds[-1].__name__}; correct it"
        )


def check_against_tensors(config: Mapping[str, Any], networks: Architecture, has_d: bool, where: str) -> None:
    """Raise InputError, starting with `where`, if the config contradicts the networks inferred from the tensors.

    Without a discriminator (`has_d` False), settings of D are not checked.
    """
    config = {key: config[key] for key in IN_TENSORS.keys() & config.keys() if has_d or not key.startswith("D_")}
    for key, value in config.items():
        _check_kind(key, value, (IN_TENSORS[key],), where)
    deep = networks.family == "biggan-deep"
    z_dim, chunks = config.get("dim_z"), networks.latent_chunks
    embedding = networks.class_embedding_dim
    tensors = {
        "model": "BigGANdeep" if deep else "BigGAN",
        "resolution": networks.resolution,
        "n_classes": networks.classes,
        "G_ch": networks.channels,
        "D_ch": networks.d_channels,
        "G_shared": embedding > 0,
        "hier": networks.hierarchical,
        "dim_z": z_dim if z_dim is not None and z_dim // chunks * chunks == networks.z_dim else networks.z_dim,
        "shared_dim": embedding if embedding and config.get("shared_dim") else config.get("shared_dim"),
        **({"G_depth": networks.depth, "D_depth": networks.d_depth} if deep else {"D_wide": True}),
    }
    for key, value in tensors.items():
        if key in config and config[key] != value:
            raise InputError(f"{where}: {key}: {config[key]!r}, but the tensors have {value!r}; use files of one run")
    sizes = {"G_attn": (networks.g_attention, 8, 1), "D_attn": (networks.d_attention, 4, 2)}
    for key, (inferred, smallest, step) in sizes.items():
        if key not in config:
            continue
        stated = _attention(config[key], smallest, networks.resolution // step)
        if stated != set(inferred):
            text = f"{config[key][:80]!r} ({sorted(stated)})"
            raise InputError(f"{where}: {key}: {text}, but the tensors have {sorted(inferred)}; use files of one run")


def _attention(text: str, smallest: int, largest: int) -> set[int]:
    """Return the resolutions in a text like `64` or `32_64`, without those that the network does not have."""
    sizes = {2**k for k in range(2, 10) if smallest <= 2**k <= largest}
    return {size for size in sizes if str(size) in text.split("_")}


def config_sections(settings: Mapping[str, Any], networks: Architecture, step: int) -> dict[str, Any]:
    """Return the sections of biggan's config, without the run's folder."""
    batch_size = settings["batch_size"]
    return {
        "run": {"seed": settings["seed"]},
        "data": {
            "path": NO_DATA,
            "streams": max(k for k in divisors(max(1, batch_size)) if k <= STREAMS),
            "horizontal_flip": settings["augment"],
        },
        "model": model_section(networks, settings),
        "training": {
            "steps": max(1, step),
            "batch_size": batch_size * settings["num_D_accumulations"],
            "accumulation": settings["num_D_accumulations"],
            "d_steps": settings["num_D_steps"],
        },
        "optimizer": {
            "g_lr": settings["G_lr"],
            "d_lr": settings["D_lr"],
            "beta1": settings["G_B1"],
            "beta2": settings["G_B2"],
            "eps": settings["adam_eps"],
        },
        "objective": {"orthogonal": settings["G_ortho"] / 2},  # reference: half of the exact gradient
        "ema": {"decay": settings["ema_decay"], "start_step": settings["ema_start"]},
    }


def model_section(networks: Architecture, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `model`, in the form that `configured_architecture` reads."""
    deep = networks.family == "biggan-deep"
    return {
        "family": networks.family,
        "resolution": networks.resolution,
        "image_channels": networks.image_channels,
        "channels": networks.channels,
        "d_channels": networks.d_channels,
        **({"depth": networks.depth, "d_depth": networks.d_depth} if deep else {}),
        "classes": networks.classes,
        "z_dim": networks.z_dim,
        "class_embedding_dim": networks.class_embedding_dim,
        "hierarchical_z": networks.hierarchical,
        "g_attention": list(networks.g_attention),
        "d_attention": list(networks.d_attention),
        "g_spectral_norm": networks.g_spectral_norm,
        "initialization": INITIALIZATIONS[settings["G_init"]],
        "sn_eps": float(settings["SN_eps"]),
        "bn_eps": float(settings["BN_eps"]),
    }


def unsupported(settings: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that biggan's training will not follow."""
    notes = [
        f"D_{key} {settings[f'D_{key}']}: biggan uses G's for both networks, {settings[f'G_{key}']}"
        for key in ("B1", "B2")
        if settings[f"D_{key}"] != settings[f"G_{key}"]
    ]
    if settings["D_ortho"]:
        notes.append(f"D_ortho {settings['D_ortho']}: biggan regularizes only G")
    if settings["num_G_accumulations"] != settings["num_D_accumulations"]:
        notes.append(f"num_G_accumulations {settings['num_G_accumulations']}: biggan accumulates both networks as D")
    if settings["G_batch_size"] not in (0, settings["batch_size"]):
        notes.append(f"G_batch_size {settings['G_batch_size']}: biggan uses D's batch size for G")
    notes += [
        f"num_{network}_SV_itrs {settings[f'num_{network}_SV_itrs']}: biggan takes one power iteration per step"
        for network in "GD"
        if settings[f"num_{network}_SV_itrs"] != 1
    ]
    if settings["augment"]:
        notes.append("augment: biggan flips images, but does not crop them at random")
    if settings["split_D"]:
        notes.append("split_D: biggan passes real and generated images through D together")
    return notes
