"""The tensor names of the reference PyTorch code (BigGAN-PyTorch, both families), and ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

RENAMES = (
    (r"^shared\.", "class_embedding."),
    (r"^embed\.", "class_embedding."),
    (r"^output_layer\.0\.", "output_bn."),
    (r"^output_layer\.2\.", "output_conv."),
    (r"\.conv_sc\.", ".conv_shortcut."),
    (r"(\bbn\d|^output_bn)\.bn\.", r"\1."),  # its cross-replica BatchNorm is a module inside the conditional one
    (r"\.stored_mean$", ".running_mean"),
    (r"\.stored_var$", ".running_var"),
    (r"\.u0$", ".u"),
)
BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
ATTENTION = re.compile(r"(theta|phi|g|o)\.|gamma$")
LEFT_OUT = re.compile(r"\.(sv\d+|num_batches_tracked|accumulation_counter)$")
"""Estimates and counters that are made anew."""
BUFFER = re.compile(r"\.(u\d+|stored_(mean|var)|running_(mean|var))$")


def our_state(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's state dict under our names and in our shapes.

    Their blocks are lists of lists, attention among them; ours are numbered through, attention by the block it follows.
    """
    numbers = _numbers(theirs)
    state = {}
    for name, tensor in theirs.items():
        if LEFT_OUT.search(name):
            continue
        if found := BLOCK.match(name):
            kind, number = numbers[int(found[1]), int(found[2])]
            name = f"{kind}.{number}.{found[3]}"
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        state[name] = tensor.flatten() if name.endswith((".u", ".gamma")) else tensor
    return state


def parameters(theirs: Mapping[str, Tensor]) -> list[str]:
    """Their names of a network's parameters, in the order in which their optimizer numbers them: the state dict's."""
    return [name for name in theirs if not LEFT_OUT.search(name) and not BUFFER.search(name)]


def _numbers(names: Iterable[str]) -> dict[tuple[int, int], tuple[str, int]]:
    """Place among their blocks -> ("blocks", number) or ("attention", number of the block before)."""
    kinds: dict[tuple[int, int], str] = {}
    for name in names:
        if found := BLOCK.match(name):
            kinds[int(found[1]), int(found[2])] = "attention" if ATTENTION.match(found[3]) else "blocks"
    numbers, block = {}, -1
    for place, kind in sorted(kinds.items()):
        block += kind == "blocks"
        numbers[place] = (kind, block)
    return numbers
