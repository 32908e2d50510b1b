"""Class-conditional BigGAN training (Brock, Donahue & Simonyan 2018, arXiv:1809.11096)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from biggan.generation.sampler import load_discriminator, load_generator

__all__ = ["load_discriminator", "load_generator"]


def __getattr__(name: str) -> Any:
    """Import the loaders, and with them torch, on first access, so that `biggan --help` starts fast."""
    if name not in __all__:
        raise AttributeError(f"module 'biggan' has no attribute '{name}'")
    return getattr(importlib.import_module("biggan.generation.sampler"), name)
