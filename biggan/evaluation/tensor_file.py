"""Files of tensors with JSON metadata. Reading one executes nothing. Writing one is atomic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from biggan.errors import InputError
from biggan.files import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Replace `path` (safetensors) by these tensors and the metadata `about`, which JSON can represent.

    Raises InputError that names `path` if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, save(content, {"about": json.dumps(about)}))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free disk space or fix the permissions"
        ) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and metadata that `write_tensors` wrote.

    Returns None if the file does not exist or is corrupt: callers then compute its content again.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return (tensors, about) if isinstance(about, dict) else None


def fits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Return True if names, dtypes and shapes are the expected ones.

    An expected tensor with no rows accepts any number of rows.
    """
    return tensors.keys() == expected.keys() and all(_like(tensors[name], tensor) for name, tensor in expected.items())


def _like(tensor: Tensor, expected: Tensor) -> bool:
    rows = tensor.shape[:1] if expected.ndim and not len(expected) else expected.shape[:1]
    return tensor.dtype == expected.dtype and tensor.shape == rows + expected.shape[1:]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix` before each name, so that several states fit in one file."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, with the prefix removed: the inverse of `prefixed`."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
