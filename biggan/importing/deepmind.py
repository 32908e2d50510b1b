"""DeepMind's released BigGAN-deep generators as packaged for PyTorch (pytorch-pretrained-BigGAN).

`config.json` and `pytorch_model.bin`. Theirs differ from ours in this:

- z comes before the class embedding in the condition, and the first map lies as TensorFlow has it (H, W, C);
- spectral norm is torch's own, with both vectors stored: the weight in use is W / (u . W v), which we fold in;
- attention stands in the list of blocks, and numbers those after it anew;
- BatchNorm has statistics per truncation, i / (n_stats - 1) at index i; none are used at 0;
- the last convolution has more outputs than images have channels: the first 3 are used;
- truncation is the factor of latents that are cut at 2 (`Architecture.scaled_latents`).
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.config.families import BOTTOM_WIDTH, G_WIDTHS
from biggan.errors import InputError
from biggan.generation.trained_generator import truncation_key
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State
from biggan.importing.pickles import read_file, state_dict_of
from biggan.models.architecture import Architecture

FORMAT = "a released BigGAN-deep generator (pytorch-pretrained-BigGAN)"
CONFIG, TENSORS = "config.json", "pytorch_model.bin"
IMAGE_CHANNELS = 3
ATTENTION = {"theta": "snconv1x1_theta", "phi": "snconv1x1_phi", "g": "snconv1x1_g", "o": "snconv1x1_o_conv"}
STATISTICS = {"running_means": "running_mean", "running_vars": "running_var"}


def read(folder: Path) -> ImportedCheckpoint:
    """The generator; raises InputError, one line, for whatever does not belong."""
    file = folder / TENSORS
    config = _config(folder / CONFIG)
    tensors = Tensors(state_dict_of(read_file(file), str(file)), str(file))
    networks, attention = _architecture(config, tensors, folder / CONFIG)
    state = dict(_renamed(tensors, networks, attention))
    if tensors.left:
        raise InputError(
            f"{file}: tensor {min(tensors.left)} is not one of the network's (of {len(tensors.left)} such)"
        )
    steps = _statistics_by_truncation(state, str(file))
    if config.get("n_stats", len(steps)) != len(steps):
        raise InputError(f"{folder / CONFIG}: n_stats: {config['n_stats']!r}, but the tensors are of {len(steps)}")
    return ImportedCheckpoint(
        format=FORMAT,
        networks=networks,
        ema={**state, **steps[truncation_key(None)]},
        standing=steps,
        notes=("no discriminator: a generator alone, nothing to train on",),
    )


class Tensors:
    """What is still to be used of a state dict."""

    def __init__(self, state: State, what: str):
        self.left, self.what = dict(state), what

    def take(self, name: str, *axes: int) -> Tensor:
        """The tensor, which then counts as used; InputError if it is missing, or of another number of axes than these
        (none: of any)."""
        if name not in self.left:
            raise InputError(f"{self.what}: tensor {name} is missing; copy the checkpoint again")
        tensor = self.left.pop(name)
        if (axes and tensor.ndim not in axes) or not tensor.is_floating_point():
            found = f"{tensor.dtype} of the shape {list(tensor.shape)}"
            raise InputError(f"{self.what}: tensor {name} is {found}, not what the released generators have there")
        return tensor

    def weight(self, layer: str) -> Tensor:
        """A spectrally normalised layer's weight as it is in use."""
        weight = self.take(f"{layer}.weight_orig", 2, 4)
        u, v = (self.take(f"{layer}.weight_{part}") for part in "uv")
        matrix = weight.flatten(1)
        for name, vector, size in (("u", u, matrix.shape[0]), ("v", v, matrix.shape[1])):
            if vector.shape != (size,):
                found = f"the shape {list(vector.shape)}, not {[size]}"
                raise InputError(f"{self.what}: tensor {layer}.weight_{name} has {found}")
        return weight / torch.dot(u, torch.mv(matrix, v))


def _config(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); copy it again") from None
    kinds = {"layers": list, "channel_width": int, "attention_layer_position": int, "eps": float}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or type(found.get(key)) is not kind:
            raise InputError(f"{file}: {key}: missing, or not what the released generators have there")
    return found


def _architecture(config: dict[str, Any], tensors: Tensors, file: Path) -> tuple[Architecture, int]:
    """What the config and the first tensors say, and the number of the block that attention follows."""
    layers, channels = config["layers"], config["channel_width"]
    embedding, first = (tensors.left.get(name) for name in ("embeddings.weight", "generator.gen_z.weight_orig"))
    if embedding is None or first is None or embedding.ndim != 2 or first.ndim != 2:
        raise InputError(f"{tensors.what}: no embeddings.weight and generator.gen_z.weight_orig of two axes")
    found = [(r, depth) for r in G_WIDTHS for depth in range(1, len(layers) + 1) if layers == _layers(r, depth)]
    position = config["attention_layer_position"]
    if not found or channels < 1 or not 0 < config["eps"] < math.inf:
        raise InputError(f"{file}: layers, channel_width, eps: not those of a network of ours")
    ((resolution, depth),) = found
    features = BOTTOM_WIDTH**2 * G_WIDTHS[resolution][0] * channels
    if first.shape[0] != features:
        found_rows = f"{first.shape[0]} rows, not {features}, as {file.name} has it"
        raise InputError(f"{tensors.what}: tensor generator.gen_z.weight_orig has {found_rows}")
    if not 0 < position < len(layers) or position % depth:
        raise InputError(f"{file}: attention_layer_position: {position}; ours can have it after a stage alone")
    embedding_dim, classes = embedding.shape
    expected = {
        "num_classes": classes,
        "class_embed_dim": embedding_dim,
        "z_dim": first.shape[1] - embedding_dim,
        "output_dim": resolution,
    }
    for key, value in expected.items():
        if key in config and config[key] != value:
            raise InputError(f"{file}: {key}: {config[key]!r}, but the tensors are of {value}")
    return Architecture(
        family="biggan-deep",
        resolution=resolution,
        image_channels=IMAGE_CHANNELS,
        channels=channels,
        d_channels=channels,
        depth=depth,
        d_depth=depth,
        classes=classes,
        z_dim=expected["z_dim"],
        class_embedding_dim=embedding_dim,
        hierarchical=True,
        g_attention=(BOTTOM_WIDTH * 2 ** (position // depth),),
        d_attention=(),
        g_spectral_norm=False,
        residual=True,
        d_conv_shortcuts="downsampling",
        sn_eps=config["eps"],
        bn_eps=config["eps"],
        scaled_latents=True,
    ), position - 1


def _layers(resolution: int, depth: int) -> list[list[Any]]:
    """Their description of our network: [doubling, input width, output width] of each block."""
    return [
        layer for i, o in pairwise(G_WIDTHS[resolution]) for layer in [[False, i, i]] * (depth - 1) + [[True, i, o]]
    ]


def _renamed(tensors: Tensors, networks: Architecture, attention: int) -> Any:
    """(our name, tensor) of all; BatchNorm's statistics as theirs are, [n_stats, C], under our names."""
    z_dim = networks.z_dim

    def conditional(layer: str) -> Tensor:
        weight = tensors.weight(layer)
        return torch.cat([weight[:, z_dim:], weight[:, :z_dim]], 1)

    def channels_first(rows: Tensor) -> Tensor:
        if len(rows) % BOTTOM_WIDTH**2:
            raise InputError(f"{tensors.what}: tensor generator.gen_z.bias has {len(rows)} numbers, not one a feature")
        return rows.unflatten(0, (BOTTOM_WIDTH**2, -1)).transpose(0, 1).flatten(0, 1)

    yield "class_embedding.weight", tensors.take("embeddings.weight").T.contiguous()
    yield "linear.weight", channels_first(conditional("generator.gen_z"))
    yield "linear.bias", channels_first(tensors.take("generator.gen_z.bias", 1))
    for k in range(networks.depth * (len(G_WIDTHS[networks.resolution]) - 1)):
        theirs = f"generator.layers.{k + (k > attention)}"
        for j in range(4):
            ours = f"blocks.{k}.bn{j + 1}"
            yield f"{ours}.gain.weight", conditional(f"{theirs}.bn_{j}.scale")
            yield f"{ours}.bias.weight", conditional(f"{theirs}.bn_{j}.offset")
            yield from _statistics(tensors, f"{theirs}.bn_{j}", ours)
            yield f"blocks.{k}.conv{j + 1}.weight", tensors.weight(f"{theirs}.conv_{j}")
            yield f"blocks.{k}.conv{j + 1}.bias", tensors.take(f"{theirs}.conv_{j}.bias")
    theirs = f"generator.layers.{attention + 1}"
    for name, layer in ATTENTION.items():
        yield f"attention.{attention}.{name}.weight", tensors.weight(f"{theirs}.{layer}")
    yield f"attention.{attention}.gamma", tensors.take(f"{theirs}.gamma").flatten()
    yield "output_bn.gain", tensors.take("generator.bn.weight")
    yield "output_bn.bias", tensors.take("generator.bn.bias")
    yield from _statistics(tensors, "generator.bn", "output_bn")
    yield "output_conv.weight", tensors.weight("generator.conv_to_rgb")[:IMAGE_CHANNELS].contiguous()
    yield "output_conv.bias", tensors.take("generator.conv_to_rgb.bias", 1)[:IMAGE_CHANNELS].contiguous()


def _statistics(tensors: Tensors, theirs: str, ours: str) -> Any:
    for name, our_name in STATISTICS.items():
        yield f"{ours}.{our_name}", tensors.take(f"{theirs}.{name}")


def _statistics_by_truncation(state: State, what: str) -> dict[str, State]:
    """By `truncation_key`; none is 1, as latents then are. Index 0, of truncation 0, is not used."""
    tables = {name: t for name, t in state.items() if re.search(r"\.running_(mean|var)$", name)}
    counts = {tuple(table.shape[:1]) for table in tables.values() if table.ndim == 2}
    if len(counts) != 1 or any(table.ndim != 2 for table in tables.values()) or (n_stats := counts.pop()[0]) < 2:
        raise InputError(f"{what}: running_means and running_vars are not [n_stats, channels] throughout")
    steps: dict[str, State] = {
        truncation_key(i / (n_stats - 1)): {name: table[i].contiguous() for name, table in tables.items()}
        for i in range(1, n_stats)
    }
    return {**steps, truncation_key(None): steps[truncation_key(1.0)]}
