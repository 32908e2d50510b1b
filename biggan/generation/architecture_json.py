"""Reads and checks the architecture in an export's `generator.json`, and builds its networks without weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from biggan.families import FAMILIES, G_WIDTHS
from biggan.models.architecture import ADDED, Architecture
from biggan.models.networks import Discriminator, Generator

MAX_SIZE = 2**20
"""Largest number of channels, classes, latent values and so on: the sizes of tensors stay far from overflow."""
MAX_BLOCKS = 64
"""Largest number of blocks in one stage."""
MAX_SHOWN = 60
"""Number of characters of a value that an error message shows."""


class _SkipInitialization(TorchFunctionMode):
    """Context in which neither weights nor the vectors of spectral norm are initialized.

    On the `meta` device torch would load its compiler to initialize them. That takes seconds, and needs packages that
    the reader of an export may not have installed.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        if func is F.normalize:
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def meta_networks(architecture: Architecture) -> tuple[Generator, Discriminator]:
    """Return both networks on torch's `meta` device: tensors have shapes and dtypes, and take no memory."""
    with torch.device("meta"), _SkipInitialization():
        return architecture.generator(), architecture.discriminator()


def from_json(value: Any) -> Architecture:
    """Return the architecture of a parsed `generator.json`.

    Raises ValueError, one line that names the key, if `value` is not a valid architecture.
    """
    if not isinstance(value, dict):
        raise ValueError("not an object")
    value = ADDED | value
    for key in {field.name for field in fields(Architecture)} ^ value.keys():
        raise ValueError(f"{key[:MAX_SHOWN]!r}: {'not a known key' if key in value else 'missing'}")
    for key, requirement, is_valid in CHECKS:
        if not is_valid(value[key]):
            raise ValueError(f"{key}: {repr(value[key])[:MAX_SHOWN]} is not {requirement}")
    attention = {key: tuple(value[key]) for key in ("g_attention", "d_attention")}
    architecture = Architecture(**{**value, **attention})
    if architecture.feeds_latent_to_blocks and not architecture.class_embedding_dim:
        raise ValueError("class_embedding_dim: 0 is not a size, with hierarchical latents")
    if architecture.z_dim % architecture.latent_chunks:
        raise ValueError(f"z_dim: {architecture.z_dim} is not a multiple of the {architecture.latent_chunks} chunks")
    return architecture


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIZE


def _is_depth(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_BLOCKS


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_counts(value: Any) -> bool:
    return type(value) is list and all(map(_is_count, value))


def _is_epsilon(value: Any) -> bool:
    return type(value) is float and 0 < value < math.inf


def _is_resolution(value: Any) -> bool:
    return type(value) is int and value in G_WIDTHS


CHECKS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("family", f"one of {', '.join(FAMILIES)}", lambda value: value in FAMILIES),
    ("resolution", f"one of {', '.join(map(str, G_WIDTHS))}", _is_resolution),
    ("image_channels", "1 or 3", lambda value: type(value) is int and value in (1, 3)),
    *((key, f"a count of 1 to {MAX_SIZE}", _is_count) for key in ("channels", "d_channels", "classes", "z_dim")),
    *((key, f"a count of 1 to {MAX_BLOCKS}", _is_depth) for key in ("depth", "d_depth")),
    ("class_embedding_dim", f"a size of 0 to {MAX_SIZE}", lambda value: type(value) is int and 0 <= value <= MAX_SIZE),
    *((key, "true or false", _is_flag) for key in ("hierarchical", "g_spectral_norm", "residual", "scaled_latents")),
    ("d_spectral_norm", "true or false", _is_flag),
    ("d_normalization", "none, layer or batch", lambda value: value in ("none", "layer", "batch")),
    *((key, "a list of map sizes", _are_counts) for key in ("g_attention", "d_attention")),
    ("d_conv_shortcuts", "downsampling or widening", lambda value: value in ("downsampling", "widening")),
    *((key, "a number above 0", _is_epsilon) for key in ("sn_eps", "bn_eps")),
)
"""Checks of single values: (key, requirement in words, function that returns True if the value meets it)."""
