"""Read files of tensors from untrusted sources without running code in them.

A pickle is a program. torch's `weights_only` reader accepts tensors, plain containers, numbers and text, and refuses
every other name. A few other names occur in harmless files of the reference code. They are read as `Inert`, so their
own code never receives data from the file.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from biggan.errors import InputError


class Inert:
    """Placeholder for an object that no importer needs. It discards its arguments and state."""

    def __new__(cls, *_arguments: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return "a NumPy scalar or an activation"


HARMLESS: list[Any] = [
    (Inert, name)
    for name in (
        "torch.nn.modules.activation.ReLU",  # the reference code's config contains its activation module
        "numpy.core.multiarray.scalar",  # the best scores
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    )
]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
REFUSED = re.compile(r"(?:GLOBAL |(?:type|class) (?=\w+\.))([A-Za-z_][\w.]*)")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)


def read_file(file: Path) -> Any:
    """Return the contents of a `.safetensors` file or a torch pickle, on the CPU.

    Raises InputError if the file is missing, truncated or corrupt, or names anything but tensors and plain containers.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        check_members(file)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; read errors are reported below
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; copy the checkpoint again") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{file}: truncated or corrupt ({error}); copy it again") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: {_refusal(str(error))}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or "it is empty, or ends too early"
        raise InputError(f"{file}: truncated or corrupt ({reason}); copy it again") from None
    except Exception:  # corrupt bytes are an arbitrary pickle program, which can raise anything
        raise InputError(
            f"{file}: not a file of tensors, or a corrupt one; copy it again, or give one written by torch.save or "
            f"safetensors"
        ) from None


def has_checksums(file: Path) -> bool:
    """Return True if the file is a zip, as torch.save writes since torch 1.6: it has a checksum of every member."""
    with file.open("rb") as stream:
        return file.suffix != ".safetensors" and stream.read(4) == b"PK\3\4"


def check_members(file: Path) -> None:
    """Raise zipfile.BadZipFile if a member of a torch zip differs from its checksum; torch.load does not look.

    A file of the older format is not checked: it has no checksums. Members are read in pieces, whatever their size.
    """
    if not has_checksums(file):
        return
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:  # torch stores; compressed members could expand without end
                raise zipfile.BadZipFile(f"'{member.filename}' is compressed, which torch.save never does")
        if (corrupt := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"'{corrupt}' differs from its checksum")


def _refusal(reason: str) -> str:
    """Return one line for torch's multi-line reason."""
    if name := REFUSED.search(reason):
        return (
            f"names {name[1]}, which is no tensor and no plain container: refused, it could run code (or the file is "
            f"truncated there); save only tensors, as returned by `state_dict()`"
        )
    return "contains more than tensors and plain containers, or is truncated: refused; save only tensors"


def state_dict_of(contents: Any, what: str) -> dict[str, Tensor]:
    """Return a network's state dict in float32, in its order, without the prefixes that wrappers add to all names.

    Raises InputError, starting with `what`, if `contents` is no state dict or `dense` refuses a tensor.
    """
    if not isinstance(contents, Mapping) or not contents:
        raise InputError(f"{what}: {type(contents).__name__}, not a state dict; save tensors by name")
    for name in contents:
        if not isinstance(name, str):
            raise InputError(f"{what}: {name!r}: {type(name).__name__}, not a tensor name; save tensors by name")
    state = {name: dense(tensor, f"{what}: {name}") for name, tensor in contents.items()}
    for prefix in ("module.", "_orig_mod.", "module."):  # compiled inside a DataParallel or around it
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def dense(tensor: object, what: str) -> Tensor:
    """Return the tensor, converted to float32 if it is of floating point.

    Raises InputError, starting with `what`, unless it is a dense tensor of finite numbers.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{what}: {type(tensor).__name__}, not a tensor; save tensors by name")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_meta:
        kind = "nested" if tensor.is_nested else "without values" if tensor.is_meta else "sparse"
        raise InputError(f"{what}: is {kind}; save a dense tensor")
    if tensor.dtype not in DTYPES:
        raise InputError(f"{what}: {tensor.dtype} is not supported; save it as torch.float32")
    numbers = tensor.detach().float() if tensor.is_floating_point() else tensor
    if not numbers.isfinite().all():
        raise InputError(f"{what}: has values that are not finite; its run had diverged, take an earlier checkpoint")
    return numbers
