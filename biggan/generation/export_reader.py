"""Reads an export: a folder with `generator.safetensors` and `generator.json`. Everything is checked before use.

Needs torch, numpy and safetensors, and no other dependency of training. Nothing in the folder is ever executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from biggan.errors import InputError
from biggan.files import sha256_of
from biggan.generation.architecture_json import from_json, meta_networks
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.models.architecture import Architecture
from biggan.models.folding import folded
from biggan.models.networks import Discriminator

FORMAT = "biggan-generator"
VERSION = 1
INFORMATION = "generator.json"
GENERATOR = "generator.safetensors"
DISCRIMINATOR = "discriminator.safetensors"
ARCHITECTURE = "architecture"
"""Key of `Architecture.digest` in the metadata of both safetensors files."""
STANDING = "standing/"
"""Prefix of standing statistics: `standing/0.5/blocks.0.bn1.running_mean` is that buffer's value for truncation 0.5."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
FIX = "copy or export the folder again"


def is_export(folder: Path) -> bool:
    """Return True if the folder has a `generator.json`, which `biggan export` writes."""
    return (folder / INFORMATION).is_file()


def read_export(folder: Path, device: torch.device) -> TrainedGenerator:
    """Return the generator of an export.

    Raises InputError, one line that names the file, if anything differs from what was written.
    """
    information = read_information(folder)
    file = folder / GENERATOR
    tensors = _checked_tensors(file, information)
    architecture = _architecture(information, file)
    generator = folded(meta_networks(architecture)[0])  # on `meta`: shapes are compared before memory is allocated
    standing: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith(STANDING)]:
        key, _, path = name.removeprefix(STANDING).partition("/")
        standing.setdefault(key, {})[path] = tensors.pop(name).to(device)
    buffers = dict(generator.named_buffers())
    for key, statistics in standing.items():
        _check_match(buffers, statistics, file, f"{STANDING}{key}/")
        if not _is_truncation(key):
            raise InputError(f"{file}: tensors {STANDING}{key}/: '{key}' is not a truncation; {FIX}")
    _load_tensors(generator, tensors, file)
    classes = information["classes"]
    if not isinstance(classes, list) or [type(c) for c in classes] != [str] * generator.classes:
        raise InputError(f"{folder / INFORMATION}: classes: not a list of {generator.classes} names; {FIX}")
    origin, step, seen = str(folder), information["step"], information["images_seen"]
    return TrainedGenerator(generator.to(device), tuple(classes), origin, step, seen, standing)


def read_discriminator(folder: Path, device: torch.device) -> Discriminator:
    """Return the discriminator of an export made with `--discriminator`, as it was trained, in training mode."""
    information = read_information(folder)
    if DISCRIMINATOR not in information["files"]:
        raise InputError(f"{folder}: holds no discriminator; export it with `biggan export ... --discriminator`")
    file = folder / DISCRIMINATOR
    tensors = _checked_tensors(file, information)
    architecture = _architecture(information, file)
    discriminator = meta_networks(architecture)[1]
    _load_tensors(discriminator, tensors, file)
    return discriminator.to(device)


def read_information(folder: Path) -> dict[str, Any]:
    """Return the parsed `generator.json`; raise InputError if the folder is not an export, or of an unknown format."""
    file = folder / INFORMATION
    if not file.is_file():
        raise InputError(f"{folder}: {_why_not_an_export(folder)}")
    try:
        information = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); {FIX}") from None
    if not isinstance(information, dict) or information.get("format") != FORMAT:
        raise InputError(f"{file}: not written by `biggan export`: format is not {FORMAT}; {FIX}")
    version = information.get("format_version")
    if version != VERSION:
        raise InputError(f"{file}: format_version {version}, this biggan reads {VERSION}; use the one that wrote it")
    for key in ("architecture", "classes", "files", "step", "images_seen"):
        if key not in information:
            raise InputError(f"{file}: has no '{key}'; {FIX}")
    for key in ("step", "images_seen"):
        if information[key] is not None and (type(information[key]) is not int or information[key] < 0):
            raise InputError(f"{file}: {key}: not a count; {FIX}")
    return information


def _architecture(information: Mapping[str, Any], file: Path) -> Architecture:
    """Return the architecture in `generator.json`; raise InputError if it is invalid, or not that of `file`."""
    try:
        architecture = from_json(information["architecture"])
    except ValueError as error:
        raise InputError(f"{file.parent / INFORMATION}: architecture: {error}; {FIX}") from None
    with safe_open(file, "pt") as opened:
        digest = (opened.metadata() or {}).get(ARCHITECTURE)
    if digest != architecture.digest():
        raise InputError(f"{file.parent / INFORMATION}: architecture: not that of {file.name}; {FIX}")
    return architecture


def _why_not_an_export(path: Path) -> str:
    """Return the rest of an error message: why `path` is not an export, and the fix."""
    pickles = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in PICKLES)
    if pickles and pickles[0].suffix in PICKLES:
        name = pickles[0].name
        return f"{name} is a pickle, which can run code when it is read; give a folder that `biggan export` wrote"
    if not path.is_dir():
        return "not a folder; give one that `biggan export RUN OUT` wrote" if path.exists() else "no such folder"
    if (path / "config.yaml").is_file():
        return f"a run or a checkpoint, not an export; write one with `biggan export {path} OUT`"
    return f"not an export (no {INFORMATION}); write one with `biggan export RUN OUT`"


def _checked_tensors(file: Path, information: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all tensors of `file`; raise InputError unless its size and checksum are those in `generator.json`."""
    try:
        recorded = information["files"][file.name]
        size, checksum = recorded["bytes"], recorded["sha256"]
    except (KeyError, TypeError):
        raise InputError(f"{file.parent / INFORMATION}: has no checksum for {file.name}; {FIX}") from None
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
        # A safetensors file starts with 8 bytes, the length of its header, and the brace of the header.
        if len(head) == 9 and (head[6:8] != b"\0\0" or head[8:] != b"{"):
            raise InputError(f"{file}: not a safetensors file (a pickle could run code: not read); {FIX}")
        if (actual_size := file.stat().st_size) != size:
            raise InputError(f"{file}: {actual_size} bytes, {INFORMATION} states {size}: cut or replaced; {FIX}")
        if sha256_of(file) != checksum:
            raise InputError(f"{file}: is corrupt (its checksum is not the one in {INFORMATION}); {FIX}")
        return load_file(file)
    except FileNotFoundError:
        raise InputError(f"{file}: is missing; {FIX}") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); {FIX}") from None


def _is_truncation(key: str) -> bool:
    """Return True if `key` is a value of `truncation_key`."""
    try:
        truncation = float(key)
    except ValueError:
        return key == truncation_key(None)
    return truncation > 0 and math.isfinite(truncation) and key == truncation_key(truncation)


def _load_tensors(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Make `tensors` the network's weights; raise InputError unless they match it."""
    _check_match(network.state_dict(), tensors, file, "")
    network.load_state_dict(tensors, assign=True)


def _check_match(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path, prefix: str) -> None:
    """Raise InputError unless names, shapes and dtypes are those expected, and all values are finite."""
    for name in expected.keys() ^ tensors.keys():
        problem = "is missing" if name in expected else "is not in the network"
        raise InputError(f"{file}: tensor {prefix}{name} {problem}; {FIX}")
    for name, tensor in tensors.items():
        reference = expected[name]
        if tensor.shape != reference.shape or tensor.dtype != reference.dtype:
            shapes = f"{list(tensor.shape)} {tensor.dtype}, not {list(reference.shape)} {reference.dtype}"
            raise InputError(f"{file}: tensor {prefix}{name} is {shapes}; {FIX}")
        if not tensor.isfinite().all() or (name.endswith("running_var") and (tensor < 0).any()):
            problem = "has values that are not finite, or variances below 0"
            raise InputError(f"{file}: tensor {prefix}{name} {problem}; export an earlier checkpoint, RUN@good")
