"""What networks an export holds, as `generator.json` says it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from biggan.models.biggan import G_WIDTHS, Discriminator, Generator

MOST = 2**20
"""Of channels, classes and the like: sizes of tensors are far from overflowing."""
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
        """On torch's `meta` device: shapes alone, which take no memory."""
        with torch.device("meta"), _Undrawn():
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
        """On torch's `meta` device."""
        with torch.device("meta"), _Undrawn():
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

    def digest(self) -> str:
        """Hex SHA-256 of the canonical JSON: what tensors were written for, also where no shape depends on it."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(found: Any) -> Architecture:
    """The architecture of a parsed `generator.json`; raises ValueError, one line that names the key, if it is none."""
    if not isinstance(found, dict):
        raise ValueError("not an object")
    for key in {field.name for field in fields(Architecture)} ^ found.keys():
        raise ValueError(f"{key[:MOST_SHOWN]!r}: {'not a known key' if key in found else 'missing'}")
    for key, what, fits in CHECKS:
        if not fits(found[key]):
            raise ValueError(f"{key}: {repr(found[key])[:MOST_SHOWN]} is not {what}")
    hierarchical, chunks = found["hierarchical"], len(G_WIDTHS[found["resolution"]])
    if hierarchical and not found["class_embedding_dim"]:
        raise ValueError("class_embedding_dim: 0 is not a size, with hierarchical latents")
    if hierarchical and found["z_dim"] % chunks:
        raise ValueError(f"z_dim: {found['z_dim']} is no multiple of the {chunks} chunks")
    attention = {key: tuple(found[key]) for key in ("g_attention", "d_attention")}
    return Architecture(**{**found, **attention})


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _are_counts(value: Any) -> bool:
    return type(value) is list and all(map(_is_count, value))


def _is_epsilon(value: Any) -> bool:
    return type(value) is float and 0 < value < math.inf


def _is_resolution(value: Any) -> bool:
    return type(value) is int and value in G_WIDTHS


CHECKS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("family", "biggan", lambda value: bool(value == "biggan")),
    ("resolution", f"one of {', '.join(map(str, G_WIDTHS))}", _is_resolution),
    *((key, f"a count of 1 to {MOST}", _is_count) for key in ("channels", "classes", "z_dim")),
    ("class_embedding_dim", f"a size of 0 to {MOST}", lambda value: type(value) is int and 0 <= value <= MOST),
    ("hierarchical", "true or false", lambda value: type(value) is bool),
    *((key, "a list of map sizes", _are_counts) for key in ("g_attention", "d_attention")),
    *((key, "a number above 0", _is_epsilon) for key in ("sn_eps", "bn_eps")),
)
"""(key, what its value is to be, whether it is)."""
