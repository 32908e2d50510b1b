"""Reading what networks an export holds from its `generator.json`, and their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from biggan.config.families import FAMILIES, G_WIDTHS
from biggan.models.architecture import Architecture
from biggan.models.networks import Discriminator, Generator

MOST = 2**20
"""Of channels, classes and the like: sizes of tensors are far from overflowing."""
MOST_BLOCKS = 64
"""Of one stage."""
MOST_SHOWN = 60
"""Characters of a value that an error message shows."""


class _Undrawn(TorchFunctionMode):
    """Inside, no weights are drawn, nor spectral norm's vectors: on `meta` torch would load its compiler for that.

    It would take seconds, and packages that an export's reader need not have.
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


def shapes_of(architecture: Architecture) -> tuple[Generator, Discriminator]:
    """Both networks on torch's `meta` device: shapes alone, which take no memory."""
    with torch.device("meta"), _Undrawn():
        return architecture.generator(), architecture.discriminator()


def from_json(found: Any) -> Architecture:
    """The architecture of a parsed `generator.json`; raises ValueError, one line that names the key, if it is none."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    for key in {field.name for field in fields(Architecture)} ^ found.keys():
        raise ValueError(f"{key[:MOST_SHOWN]!r}: {'not a known key' if key in found else 'missing'}")
    for key, what, fits in CHECKS:
        if not fits(found[key]):
            raise ValueError(f"{key}: {repr(found[key])[:MOST_SHOWN]} is not {what}")
    attention = {key: tuple(found[key]) for key in ("g_attention", "d_attention")}
    architecture = Architecture(**{**found, **attention})
    if architecture.feeds_latent_to_blocks and not architecture.class_embedding_dim:
        raise ValueError("class_embedding_dim: 0 is not a size, with hierarchical latents")
    if architecture.z_dim % architecture.latent_chunks:
        raise ValueError(f"z_dim: {architecture.z_dim} is no multiple of the {architecture.latent_chunks} chunks")
    return architecture


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _is_depth(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST_BLOCKS


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
    *((key, f"a count of 1 to {MOST}", _is_count) for key in ("channels", "d_channels", "classes", "z_dim")),
    *((key, f"a count of 1 to {MOST_BLOCKS}", _is_depth) for key in ("depth", "d_depth")),
    ("class_embedding_dim", f"a size of 0 to {MOST}", lambda value: type(value) is int and 0 <= value <= MOST),
    *((key, "true or false", _is_flag) for key in ("hierarchical", "g_spectral_norm", "residual", "scaled_latents")),
    *((key, "a list of map sizes", _are_counts) for key in ("g_attention", "d_attention")),
    ("d_conv_shortcuts", "downsampling or widening", lambda value: value in ("downsampling", "widening")),
    *((key, "a number above 0", _is_epsilon) for key in ("sn_eps", "bn_eps")),
)
"""(key, what its value is to be, whether it is)."""
