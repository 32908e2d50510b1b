"""Tensors, and words about them, in one file that executes nothing when it is read, and is whole or not there."""

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
    """Replace `path` (safetensors) by host tensors and JSON-able words; raises InputError that names it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, save(content, {"about": json.dumps(about)}))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room or leave to write"
        ) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `write_tensors` wrote; None if there is no such file or it is damaged: what it held is then made again."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    return (tensors, about) if isinstance(about, dict) else None


def fits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether a file holds the tensors that are expected: names, types, sizes; of rows, where none are, any number."""
    return found.keys() == expected.keys() and all(_like(found[name], tensor) for name, tensor in expected.items())


def _like(found: Tensor, expected: Tensor) -> bool:
    rows = found.shape[:1] if expected.ndim and not len(expected) else expected.shape[:1]
    return found.dtype == expected.dtype and found.shape == rows + expected.shape[1:]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under longer names: what several keep goes into one file."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `prefixed` was given, of all that is in a file."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
