"""The reference implementation's tensor names, and how they map to ours."""

import re

import torch
from torch import Tensor

RENAMES = [
    (r"^G\.shared\.", "G.class_embedding."),
    (r"^D\.embed\.", "D.class_embedding."),
    (r"\.blocks\.(\d+)\.0\.", r".blocks.\1."),
    (r"\.blocks\.(\d+)\.1\.", r".attention.\1."),
    (r"\.output_layer\.0\.", ".output_bn."),
    (r"\.output_layer\.2\.", ".output_conv."),
    (r"\.conv_sc\.", ".conv_shortcut."),
    (r"\.stored_mean$", ".running_mean"),
    (r"\.stored_var$", ".running_var"),
    (r"\.u0$", ".u"),
]


def our_state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict of our network from the reference's tensors under `prefix` ("init.G", "final.D", ...)."""
    state = {}
    network = prefix.split(".")[1][0]
    for key, value in tensors.items():
        if not key.startswith(prefix + ".") or key.endswith(".sv0"):
            continue
        name = f"{network}.{key.removeprefix(prefix + '.')}"
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith(".u"):
            value = value.flatten()
        elif name.endswith(".gamma"):
            value = value.reshape(1)
        state[name[2:]] = value
    return state


def max_abs_diff(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.numel() else 0.0


def mean_abs_diff(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    diffs = torch.cat([(ours[k] - theirs[k]).abs().flatten() for k in theirs])
    return diffs.mean().item()
