"""The reference code's settings (its `state_dict.pth` has them), as sections of our config."""

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
"""Its command line's (utils.py, `prepare_parser`), of what shows in no tensor."""
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
"""Those of which tensors tell, too."""
INITIALIZATIONS = {"ortho": "orthogonal", "N02": "normal", "glorot": "glorot", "xavier": "glorot"}
RELU = ("relu", "inplace_relu", "ir")
STREAMS = 8
NO_DATA = "data/imported"
"""Until `data.path` says where the data set is."""


def checked(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All of DEFAULTS, with what `config` says; raises InputError, which begins with `where`, for another kind of value
    or a kind of network that ours are not."""
    known = {}
    for key, default in DEFAULTS.items():
        value = config.get(key, default)
        kinds = (int, float) if type(default) is float else (type(default),)
        _check_kind(key, value, kinds, where)
        known[key] = value
    for key, wanted in (("norm_style", ("bn",)), ("G_nl", RELU), ("D_nl", RELU), ("G_init", tuple(INITIALIZATIONS))):
        if known[key] not in wanted:
            raise InputError(f"{where}: {key}: {known[key]}; our networks know {', '.join(wanted)}")
    if known["z_var"] != 1:
        raise InputError(
            f"{where}: z_var: {known['z_var']}; our latents have the variance 1, so these networks cannot be imported"
        )
    return known


def _check_kind(key: str, value: object, kinds: tuple[type, ...], where: str) -> None:
    if type(value) not in kinds:
        raise InputError(f"{where}: {key}: {' '.join(repr(value).split())[:80]} is no {kinds[-1].__name__}")


def check_against_tensors(config: Mapping[str, Any], networks: Architecture, has_d: bool, where: str) -> None:
    """Raise InputError, which begins with `where`, if what the config says of the networks is not what tensors say.

    Without `has_d` there is no discriminator, and nothing that it could be held against.
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
            raise InputError(
                f"{where}: {key}: {config[key]!r}, but the tensors are of {value!r}; give those of one run"
            )
    sizes = {"G_attn": (networks.g_attention, 8, 1), "D_attn": (networks.d_attention, 4, 2)}
    for key, (found, smallest, step) in sizes.items():
        if key in config and (said := _attention(config[key], smallest, networks.resolution // step)) != set(found):
            named = f"{config[key][:80]!r} ({sorted(said)})"
            raise InputError(f"{where}: {key}: {named}, but the tensors have {sorted(found)}")


def _attention(text: str, smallest: int, largest: int) -> set[int]:
    """Resolutions of `64` or `32_64`; those that the network does not have mean nothing there."""
    sizes = {2**k for k in range(2, 10) if smallest <= 2**k <= largest}
    return {size for size in sizes if str(size) in text.split("_")}


def sections(known: Mapping[str, Any], networks: Architecture, step: int) -> dict[str, Any]:
    """Our config's sections, but for the run's folder."""
    batch_size = known["batch_size"]
    return {
        "run": {"seed": known["seed"]},
        "data": {
            "path": NO_DATA,
            "streams": max(k for k in divisors(max(1, batch_size)) if k <= STREAMS),
            "horizontal_flip": known["augment"],
        },
        "model": model_section(networks, known),
        "training": {
            "steps": max(1, step),
            "batch_size": batch_size * known["num_D_accumulations"],
            "accumulation": known["num_D_accumulations"],
            "d_steps": known["num_D_steps"],
        },
        "optimizer": {
            "g_lr": known["G_lr"],
            "d_lr": known["D_lr"],
            "beta1": known["G_B1"],
            "beta2": known["G_B2"],
            "eps": known["adam_eps"],
        },
        "regularization": {"orthogonal": known["G_ortho"] / 2},  # it applies half of the exact gradient
        "ema": {"decay": known["ema_decay"], "start_step": known["ema_start"]},
    }


def model_section(networks: Architecture, known: Mapping[str, Any]) -> dict[str, Any]:
    """The networks as `configured_architecture` reads them."""
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
        "initialization": INITIALIZATIONS[known["G_init"]],
        "sn_eps": float(known["SN_eps"]),
        "bn_eps": float(known["BN_eps"]),
    }


def left_out(known: Mapping[str, Any]) -> list[str]:
    """What training went by and goes on without, one line each."""
    notes = [
        f"D_{key} {known[f'D_{key}']}: both networks go on with G's, {known[f'G_{key}']}"
        for key in ("B1", "B2")
        if known[f"D_{key}"] != known[f"G_{key}"]
    ]
    if known["D_ortho"]:
        notes.append(f"D_ortho {known['D_ortho']}: orthogonal regularization is G's alone here")
    if known["num_G_accumulations"] != known["num_D_accumulations"]:
        notes.append(f"num_G_accumulations {known['num_G_accumulations']}: both networks accumulate as D did")
    if known["G_batch_size"] not in (0, known["batch_size"]):
        notes.append(f"G_batch_size {known['G_batch_size']}: G's batch is D's here")
    notes += [
        f"num_{network}_SV_itrs {known[f'num_{network}_SV_itrs']}: spectral norm takes one power iteration a step here"
        for network in "GD"
        if known[f"num_{network}_SV_itrs"] != 1
    ]
    if known["augment"]:
        notes.append("augment: images are flipped here, not cropped at random")
    if known["split_D"]:
        notes.append("split_D: D sees real and generated images together here")
    return notes
