"""Read DeepMind's released BigGAN-deep generators as packaged for PyTorch (pytorch-pretrained-BigGAN).

The files are `config.json` and `pytorch_model.bin`. Their networks differ from biggan's:

- In the condition, z precedes the class embedding. The first feature map has TensorFlow's layout (H, W, C).
- Spectral norm is torch's own, with both vectors stored. The effective weight, folded in here, is W / (u . W v).
- Attention is an element of the list of blocks, so the blocks after it have indices higher by one.
- BatchNorm has statistics per truncation: i / (n_stats - 1) at index i. Index 0 is not used.
- The last convolution has more outputs than images have channels. Only the first 3 are used.
- Truncation multiplies latents that are truncated at 2 (`Architecture.scaled_latents`).
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

from biggan.errors import InputError
from biggan.families import BOTTOM_WIDTH, G_WIDTHS
from biggan.generation.trained_generator import truncation_key
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State
from biggan.importing.pickles import read_file, state_dict_of
from biggan.importing.shapes import generator_widths
from biggan.models.architecture import Architecture

FORMAT = "a released BigGAN-deep generator (pytorch-pretrained-BigGAN)"
CONFIG, TENSORS = "config.json", "pytorch_model.bin"
IMAGE_CHANNELS = 3
ATTENTION = {"theta": "snconv1x1_theta", "phi": "snconv1x1_phi", "g": "snconv1x1_g", "o": "snconv1x1_o_conv"}
STATISTICS = {"running_means": "running_mean", "running_vars": "running_var"}


def read(folder: Path) -> ImportedCheckpoint:
    """Read the generator. Raises InputError, one line, for files that do not match the format."""
    file = folder / TENSORS
    config = _read_config(folder / CONFIG)
    tensors = UnreadTensors(state_dict_of(read_file(file), str(file)), str(file))
    networks, attention = _architecture(config, tensors, folder / CONFIG)
    state = dict(_renamed(tensors, networks, attention))
    if tensors.unread:
        more = f", and {len(tensors.unread) - 1} more" if len(tensors.unread) > 1 else ""
        raise InputError(f"{file}: tensor {min(tensors.unread)} does not belong to the network{more}; remove it")
    statistics = _statistics_by_truncation(state, str(file))
    if config.get("n_stats", len(statistics)) != len(statistics):
        raise _mismatch(folder / CONFIG, "n_stats", config["n_stats"], len(statistics))
    return ImportedCheckpoint(
        format=FORMAT,
        networks=networks,
        ema={**state, **statistics[truncation_key(None)]},
        standing=statistics,
        notes=("no discriminator: it can be exported, but not trained",),
    )


def _mismatch(file: Path, key: str, value: object, expected: object) -> InputError:
    return InputError(
        f"{file}: {key}: {value!r}, but the tensors have {expected!r}; use the config and the tensors of one generator"
    )


class UnreadTensors:
    """The tensors of a state dict that have not been read yet."""

    def __init__(self, state: State, source: str):
        """`source`: start of error messages."""
        self.unread, self.source = dict(state), source

    def take(self, name: str, *ndims: int) -> Tensor:
        """Return a tensor and mark it as read.

        Raises InputError if it is missing, not of floating point, or its number of dimensions is not in `ndims` (if
        any are given).
        """
        if name not in self.unread:
            raise InputError(f"{self.source}: tensor {name} is missing; copy the checkpoint again")
        tensor = self.unread.pop(name)
        if (ndims and tensor.ndim not in ndims) or not tensor.is_floating_point():
            kind = f"{tensor.dtype} of shape {list(tensor.shape)}"
            raise InputError(f"{self.source}: tensor {name} is {kind}, unlike in released generators; copy it again")
        return tensor

    def weight(self, layer: str) -> Tensor:
        """Return the effective weight of a spectrally normalised layer."""
        weight = self.take(f"{layer}.weight_orig", 2, 4)
        u, v = (self.take(f"{layer}.weight_{part}") for part in "uv")
        matrix = weight.flatten(1)
        for name, vector, size in (("u", u, matrix.shape[0]), ("v", v, matrix.shape[1])):
            if vector.shape != (size,):
                shapes = f"{list(vector.shape)}, not {[size]}"
                raise InputError(f"{self.source}: tensor {layer}.weight_{name} has the shape {shapes}; copy it again")
        return weight / torch.dot(u, torch.mv(matrix, v))


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); copy it again") from None
    kinds = {"layers": list, "channel_width": int, "attention_layer_position": int, "eps": float}
    for key, kind in kinds.items():
        if not isinstance(config, dict) or type(config.get(key)) is not kind:
            raise InputError(f"{file}: {key}: missing or not of type {kind.__name__}; copy the file again")
    return config


def _architecture(config: dict[str, Any], tensors: UnreadTensors, file: Path) -> tuple[Architecture, int]:
    """Return the networks described by config and tensors, and the index of the block that attention follows."""
    resolution, depth = _resolution_and_depth(config, file)
    channels, position = config["channel_width"], config["attention_layer_position"]
    (embedding_dim, classes), inputs = _input_sizes(tensors, BOTTOM_WIDTH**2 * G_WIDTHS[resolution][0] * channels, file)
    expected = {
        "num_classes": classes,
        "class_embed_dim": embedding_dim,
        "z_dim": inputs - embedding_dim,
        "output_dim": resolution,
    }
    for key, value in expected.items():
        if key in config and config[key] != value:
            raise _mismatch(file, key, config[key], value)
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


def _resolution_and_depth(config: dict[str, Any], file: Path) -> tuple[int, int]:
    """Return the resolution and the blocks per stage. Raises InputError if biggan has no such network."""
    layers, position = config["layers"], config["attention_layer_position"]
    depths = range(1, len(layers) + 1)
    matches = [(r, depth) for r in G_WIDTHS for depth in depths if layers == _layers(r, depth)]
    if not matches or config["channel_width"] < 1 or not 0 < config["eps"] < math.inf:
        raise InputError(
            f"{file}: layers, channel_width, eps: not those of a BigGAN-deep generator; download the file again"
        )
    ((resolution, depth),) = matches
    if not 0 < position < len(layers) or position % depth:
        raise InputError(
            f"{file}: attention_layer_position: {position} is inside a stage of {depth} blocks; it must follow a stage"
        )
    return resolution, depth


def _input_sizes(tensors: UnreadTensors, features: int, file: Path) -> tuple[tuple[int, int], int]:
    """Return the shape of the class embedding and the inputs of the first layer, which must have `features` outputs."""
    embedding, first = (tensors.unread.get(name) for name in ("embeddings.weight", "generator.gen_z.weight_orig"))
    if embedding is None or first is None or embedding.ndim != 2 or first.ndim != 2:
        names = "embeddings.weight and generator.gen_z.weight_orig"
        raise InputError(f"{tensors.source}: {names}: missing or not of 2 dimensions; copy the checkpoint again")
    if first.shape[0] != features:
        rows = f"{first.shape[0]} rows, not {features} as by {file.name}"
        raise InputError(f"{tensors.source}: tensor generator.gen_z.weight_orig has {rows}; copy both files again")
    embedding_dim, classes = embedding.shape
    return (embedding_dim, classes), first.shape[1]


def _layers(resolution: int, depth: int) -> list[list[Any]]:
    """Return the config's description of biggan's network: [doubling, input width, output width] of each block."""
    widths = pairwise(generator_widths(G_WIDTHS[resolution], depth))
    return [[k % depth == 0, i, o] for k, (i, o) in enumerate(widths, start=1)]


def _renamed(tensors: UnreadTensors, networks: Architecture, attention: int) -> Any:
    """Yield (biggan's name, tensor) of all tensors. BatchNorm statistics keep their shape [n_stats, C]."""
    z_dim = networks.z_dim

    def conditional(layer: str) -> Tensor:
        weight = tensors.weight(layer)
        return torch.cat([weight[:, z_dim:], weight[:, :z_dim]], 1)

    def channels_first(rows: Tensor) -> Tensor:
        if len(rows) % BOTTOM_WIDTH**2:
            name = "generator.gen_z.bias"
            raise InputError(
                f"{tensors.source}: tensor {name} has {len(rows)} numbers, not one per feature; copy again"
            )
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


def _statistics(tensors: UnreadTensors, theirs: str, ours: str) -> Any:
    for name, our_name in STATISTICS.items():
        yield f"{ours}.{our_name}", tensors.take(f"{theirs}.{name}")


def _statistics_by_truncation(state: State, source: str) -> dict[str, State]:
    """Return BatchNorm's statistics by `truncation_key`. No truncation equals 1. Index 0, truncation 0, is not used."""
    tables = {name: t for name, t in state.items() if re.search(r"\.running_(mean|var)$", name)}
    counts = {tuple(table.shape[:1]) for table in tables.values() if table.ndim == 2}
    if len(counts) != 1 or any(table.ndim != 2 for table in tables.values()) or (n_stats := counts.pop()[0]) < 2:
        raise InputError(f"{source}: running_means, running_vars: not all of shape [n_stats, channels]; copy it again")
    statistics: dict[str, State] = {
        truncation_key(i / (n_stats - 1)): {name: table[i].contiguous() for name, table in tables.items()}
        for i in range(1, n_stats)
    }
    return {**statistics, truncation_key(None): statistics[truncation_key(1.0)]}
