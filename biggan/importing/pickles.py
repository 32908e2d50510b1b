"""Reading files of tensors that others wrote, without running what is in them.

A pickle is a program. torch's `weights_only` reader knows tensors, plain containers, numbers and text, and refuses
every other name; the few that harmless files of the reference code hold are let in here, and do nothing when made.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from biggan.errors import InputError

HARMLESS: list[Any] = [
    nn.ReLU,  # the reference code's config holds its activation itself
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # best scores
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64")),
]
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
REFUSED = re.compile(r"(?:GLOBAL|type|class) ([A-Za-z_]\w*(?:\.\w+)+)")


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
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or "it is empty, or ends too early"
        raise InputError(f"{file}: cut or damaged ({reason}); copy it again") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError):
        raise InputError(f"{file}: not a file of tensors; give one that torch.save or safetensors wrote") from None


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

    Raises InputError, which begins with `what`, if it is none, or a value is not finite.
    """
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{what}: no state dict but {type(found).__name__}; give tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"{what}: {name!r} is no tensor but {type(tensor).__name__}; give tensors by name")
        if not tensor.isfinite().all():
            raise InputError(f"{what}: tensor {name} has values that are not finite; the run it is of had diverged")
    state = {name: t.detach().float() if t.is_floating_point() else t for name, t in found.items()}
    for prefix in ("module.", "_orig_mod.", "module."):  # compiled inside a DataParallel or around it
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
