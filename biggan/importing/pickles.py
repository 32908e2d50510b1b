"""Reading files of tensors that others wrote, without running what is in them.

A pickle is a program. torch's `weights_only` reader knows tensors, plain containers, numbers and text, and refuses
every other name. The few that harmless files of the reference code hold besides are read as `Inert`: none of their own
code sees what the file gives them.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from biggan.errors import InputError


class Inert:
    """What stands for an object that no importer needs: whatever it is made of, it holds nothing."""

    def __new__(cls, *_arguments: object) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return "a NumPy scalar or an activation"


HARMLESS: list[Any] = [
    (Inert, name)
    for name in (
        "torch.nn.modules.activation.ReLU",  # the reference code's config holds its activation itself
        "numpy.core.multiarray.scalar",  # the best scores
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    )
]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
REFUSED = re.compile(r"(?:GLOBAL |(?:type|class) (?=\w+\.))([A-Za-z_][\w.]*)")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)


def read_file(file: Path) -> Any:
    """What a `.safetensors` file or a pickle of torch's holds, on the CPU.

    Raises InputError if it is missing, cut or damaged, or names anything but tensors and plain containers.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is said below
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; copy the checkpoint again") from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{file}: {_refusal(str(error))}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or "it is empty, or ends too early"
        raise InputError(f"{file}: cut or damaged ({reason}); copy it again") from None
    except Exception:  # damaged bytes are a program of another kind: there is no end to what may go wrong in it
        raise InputError(
            f"{file}: not a file of tensors, or a damaged one; copy it again, or give one that torch.save or "
            f"safetensors wrote"
        ) from None


def _refusal(reason: str) -> str:
    """One line of torch's many."""
    if found := REFUSED.search(reason):
        return (
            f"names {found[1]}, which is no tensor and no plain container: refused, it could run code (or the file is "
            f"cut there); save the tensors alone, as `state_dict()` gives them"
        )
    return "holds more than tensors and plain containers, or is cut: refused; save the tensors alone"


def state_dict_of(found: Any, what: str) -> dict[str, Tensor]:
    """A network's state dict, float32, in order, without the prefixes that wrappers of networks put before all names.

    Raises InputError, which begins with `what`, if it is none, or a tensor is not `dense`.
    """
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{what}: no state dict but {type(found).__name__}; give tensors by name")
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"{what}: {name!r} is no name but {type(name).__name__}; give tensors by name")
    state = {name: dense(tensor, f"{what}: {name}") for name, tensor in found.items()}
    for prefix in ("module.", "_orig_mod.", "module."):  # compiled inside a DataParallel or around it
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def dense(tensor: object, what: str) -> Tensor:
    """The tensor itself; float32 if it is of floating point.

    Raises InputError, which begins with `what`, unless it is a tensor of finite numbers that are all stored.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{what} is no tensor but {type(tensor).__name__}; give tensors by name")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_meta:
        kind = "nested" if tensor.is_nested else "without values" if tensor.is_meta else "sparse"
        raise InputError(f"{what} is {kind}; save a dense tensor")
    if tensor.dtype not in DTYPES:
        raise InputError(f"{what} is of {tensor.dtype}, which is not read; save it as torch.float32")
    numbers = tensor.detach().float() if tensor.is_floating_point() else tensor
    if not numbers.isfinite().all():
        raise InputError(f"{what} has values that are not finite; the run it is of had diverged")
    return numbers
