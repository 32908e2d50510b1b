"""The golden files' tensors, one network at a time, and how far two are apart."""

import torch
from torch import Tensor

from biggan.importing import reference_names


def our_state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict of our network from the reference's tensors under `prefix` ("init.G", "final.D", ...)."""
    theirs = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
    return reference_names.our_state(theirs)


def max_abs_diff(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.numel() else 0.0


def mean_abs_diff(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    diffs = torch.cat([(ours[k] - theirs[k]).abs().flatten() for k in theirs])
    return diffs.mean().item()
