"""Reading an export: a folder with `generator.safetensors` and `generator.json`, checked before anything is believed.

Needs torch, numpy and safetensors, and nothing else that training needs. Nothing in the folder is ever executed.
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
from biggan.generation.architecture_json import from_json, shapes_of
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
"""Key of `Architecture.digest` in the metadata of both files of tensors."""
STANDING = "standing/"
"""`standing/0.5/blocks.0.bn1.running_mean` is that buffer's standing value for truncation 0.5."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
AGAIN = "copy or export the folder again"


def is_export(folder: Path) -> bool:
    """Whether `biggan export` wrote it, or something that says so."""
    return (folder / INFORMATION).is_file()


def read_export(folder: Path, device: torch.device) -> TrainedGenerator:
    """The generator of an export; raises InputError, one line that names the file, if any of it is not as written."""
    information = read_information(folder)
    file = folder / GENERATOR
    tensors = _checked_tensors(file, information)
    architecture = _architecture(information, file)
    generator = folded(shapes_of(architecture)[0])  # shapes alone: they are compared before any memory is taken
    standing: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith(STANDING)]:
        key, _, path = name.removeprefix(STANDING).partition("/")
        standing.setdefault(key, {})[path] = tensors.pop(name).to(device)
    buffers = dict(generator.named_buffers())
    for key, statistics in standing.items():
        _check_like(buffers, statistics, file, f"{STANDING}{key}/")
        if not _is_truncation(key):
            raise InputError(f"{file}: tensors {STANDING}{key}/: '{key}' is no truncation; {AGAIN}")
    _fill(generator, tensors, file)
    classes = information["classes"]
    if not isinstance(classes, list) or [type(c) for c in classes] != [str] * generator.classes:
        raise InputError(f"{folder / INFORMATION}: classes: not {generator.classes} names; {AGAIN}")
    origin, step, seen = str(folder), information["step"], information["images_seen"]
    return TrainedGenerator(generator.to(device), tuple(classes), origin, step, seen, standing)


def read_discriminator(folder: Path, device: torch.device) -> Discriminator:
    """The discriminator of an export made with `--discriminator`, as it was trained, in training mode: to go on."""
    information = read_information(folder)
    if DISCRIMINATOR not in information["files"]:
        raise InputError(f"{folder}: holds no discriminator; export it with `biggan export ... --discriminator`")
    file = folder / DISCRIMINATOR
    tensors = _checked_tensors(file, information)
    architecture = _architecture(information, file)
    discriminator = shapes_of(architecture)[1]
    _fill(discriminator, tensors, file)
    return discriminator.to(device)


def read_information(folder: Path) -> dict[str, Any]:
    """`generator.json`; raises InputError if the folder is no export, or one of a format that is not known."""
    file = folder / INFORMATION
    if not file.is_file():
        raise InputError(f"{folder}: {_what_else(folder)}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); {AGAIN}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(f"{file}: not what `biggan export` writes (format is not {FORMAT})")
    if found.get("format_version") != VERSION:
        version = found.get("format_version")
        raise InputError(f"{file}: format_version {version}, this biggan reads {VERSION}; use the one that wrote it")
    for key in ("architecture", "classes", "files", "step", "images_seen"):
        if key not in found:
            raise InputError(f"{file}: has no '{key}'; {AGAIN}")
    for key in ("step", "images_seen"):
        if found[key] is not None and (type(found[key]) is not int or found[key] < 0):
            raise InputError(f"{file}: {key}: not a count; {AGAIN}")
    return found


def _architecture(information: Mapping[str, Any], file: Path) -> Architecture:
    """What `generator.json` says; raises InputError if it is none, or not the one that `file` was written for."""
    try:
        architecture = from_json(information["architecture"])
    except ValueError as error:
        raise InputError(f"{file.parent / INFORMATION}: architecture: {error}; {AGAIN}") from None
    with safe_open(file, "pt") as opened:
        written_for = (opened.metadata() or {}).get(ARCHITECTURE)
    if written_for != architecture.digest():
        where = f"{file.parent / INFORMATION}: architecture"
        raise InputError(f"{where}: not the one that {file.name} was written for; {AGAIN}")
    return architecture


def _what_else(path: Path) -> str:
    """What a path is that is no export, and the mend."""
    pickles = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix in PICKLES)
    if pickles and pickles[0].suffix in PICKLES:
        name = pickles[0].name
        return f"{name} is a pickle, which can run code when it is read: never read here; use `biggan export`'s folder"
    if not path.is_dir():
        return "not a folder; give one that `biggan export RUN OUT` wrote" if path.exists() else "no such folder"
    if (path / "config.yaml").is_file():
        return f"a run or a checkpoint, not an export; make one: biggan export {path} OUT"
    return f"no export (no {INFORMATION}); `biggan export RUN OUT` writes one"


def _checked_tensors(file: Path, information: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of `file`, whose size and checksum are those that `generator.json` has."""
    try:
        recorded = information["files"][file.name]
        size, checksum = recorded["bytes"], recorded["sha256"]
    except (KeyError, TypeError):
        raise InputError(f"{file.parent / INFORMATION}: has no checksum of {file.name}; {AGAIN}") from None
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
        # A safetensors file begins with the length of its header, 8 bytes, and the header's brace.
        if len(head) == 9 and (head[6:8] != b"\0\0" or head[8:] != b"{"):
            raise InputError(f"{file}: no safetensors file (a pickle by that name could run code: refused); {AGAIN}")
        if (there := file.stat().st_size) != size:
            raise InputError(f"{file}: {there} bytes, {INFORMATION} says {size}: it is cut or replaced; {AGAIN}")
        if sha256_of(file) != checksum:
            raise InputError(f"{file}: is damaged (its checksum is not the one in {INFORMATION}); {AGAIN}")
        return load_file(file)
    except FileNotFoundError:
        raise InputError(f"{file}: is missing; {AGAIN}") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); {AGAIN}") from None


def _is_truncation(key: str) -> bool:
    """Whether it is what `truncation_key` makes."""
    try:
        truncation = float(key)
    except ValueError:
        return key == truncation_key(None)
    return truncation > 0 and math.isfinite(truncation) and key == truncation_key(truncation)


def _fill(network: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    _check_like(network.state_dict(), tensors, file, "")
    network.load_state_dict(tensors, assign=True)


def _check_like(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path, prefix: str) -> None:
    """Raise InputError unless names, shapes and precisions are those expected."""
    for name in expected.keys() ^ found.keys():
        what = "is missing" if name in expected else "is not one of the network's"
        raise InputError(f"{file}: tensor {prefix}{name} {what}; {AGAIN}")
    for name, tensor in found.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            shapes = f"{list(tensor.shape)} {tensor.dtype}, not {list(wanted.shape)} {wanted.dtype}"
            raise InputError(f"{file}: tensor {prefix}{name} is {shapes}; {AGAIN}")
