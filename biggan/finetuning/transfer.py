"""Selects the tensors of a source network that initialize a target network: a pure function of two networks.

Networks are compared part by part (a block, the attention after it, the first layer, ...). A part is taken if all its
layers have the same signatures. In a block that is taken, the maps from the condition to BatchNorm's gain and bias are
taken one by one, because only they depend on the sizes of z and of the class embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.finetuning.block_mapping import Candidates
from biggan.finetuning.class_mapping import ClassRow, is_identity, map_table
from biggan.models.biggan_deep import BigGANDeepGenerator
from biggan.models.layers import as_matrix
from biggan.models.networks import Generator

Signature = tuple[str | int, ...]
"""Shape of a tensor, with two refinements: a class table's does not depend on the number of classes, and that of a map
from the condition (class embedding and z, concatenated) states how its columns divide between the two."""
Outcome = Literal["taken", "adapted", "left", "unused"]

CLASSES = "classes"


@dataclass(frozen=True)
class PartRow:
    """Outcome for one part.

    `taken`: used unchanged. `adapted`: used with changes, which the detail names. `left`: initialized by the run
    itself. `unused`: a part of the source that the run's network does not have.
    """

    part: str
    """`G.blocks.0`."""
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Transfer:
    """Initialization of one network."""

    tensors: Mapping[str, Tensor]
    """Parameters and buffers by their names in the network. All others keep the run's own initialization."""
    rows: tuple[PartRow, ...]


@dataclass(frozen=True)
class _Part:
    """Tensors of one part and their signatures, by their names inside the part."""

    tensors: dict[str, Tensor]
    signatures: dict[str, Signature]

    def is_table(self, name: str) -> bool:
        """Return True if the tensor has one row per class."""
        return self.signatures[name][0] == CLASSES

    def weights(self) -> list[str]:
        """Return all names but those of power iteration's vectors, which follow from the weights."""
        return [name for name in self.tensors if not re.search(r"(^|\.)u$", name)]

    def layers(self) -> list[str]:
        """Return the names of the tensors that must fit for the part to be taken."""
        return [name for name in self.weights() if not re.fullmatch(r"bn\d\.(gain|bias)\.weight", name)]


def make_transfer(
    name: str, target: nn.Module, source: nn.Module, candidates: Candidates, classes: Sequence[ClassRow]
) -> Transfer:
    """Return the tensors of `source` that initialize `target`, the network called `name` (G or D).

    Only the shapes of `target` are read, so it may be on the `meta` device. `candidates` are the source's blocks for
    each block of the target; `classes` are the rows of its class tables.
    """
    target_parts, source_parts = _parts(target), _parts(source)
    partner: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    rows: list[PartRow] = []
    for part, content in target_parts.items():
        options = [option for option in _options(part, candidates, partner) if option in source_parts]
        mismatches = [_mismatch(content, source_parts[option]) for option in options]
        if None not in mismatches:
            detail = mismatches[0] or "" if mismatches else "the source has no such part"
            rows.append(PartRow(f"{name}.{part}", "left", detail))
            continue
        partner[part] = chosen = options[mismatches.index(None)]
        taken, changes = _take(content, source_parts[chosen], classes)
        tensors |= {f"{part}.{key}": tensor for key, tensor in taken.items()}
        if chosen != part:
            changes.insert(0, f"from {chosen}")
        adapted = changes and (len(changes) > 1 or chosen == part)
        rows.append(PartRow(f"{name}.{part}", "adapted" if adapted else "taken", "; ".join(changes)))
    unused = [part for part in source_parts if part not in target_parts and part not in partner.values()]
    rows += [PartRow(f"{name}.{part}", "unused", "the source's") for part in unused]
    return Transfer(tensors, tuple(rows))


def _parts(network: nn.Module) -> dict[str, _Part]:
    """Return `blocks.K`, `attention.K` and each other child; attention last, as it depends on its block's partner."""
    special = _special_signatures(network)
    parts: dict[str, _Part] = {}
    for path, tensor in network.state_dict().items():
        depth = 2 if path.startswith(("blocks.", "attention.")) else 1
        keys = path.split(".")
        part, name = parts.setdefault(".".join(keys[:depth]), _Part({}, {})), ".".join(keys[depth:])
        part.tensors[name], part.signatures[name] = tensor, special.get(path, tuple(tensor.shape))
    return dict(sorted(parts.items(), key=lambda item: item[0].startswith("attention.")))


def _special_signatures(network: nn.Module) -> dict[str, Signature]:
    """Return the signatures of class tables, and of maps from a condition of class embedding and z."""
    signatures: dict[str, Signature] = {}
    table = network.class_embedding if isinstance(network, Generator) else None
    for path, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            signatures[f"{path}.weight"] = (CLASSES, module.embedding_dim)
        elif isinstance(module, nn.Linear) and table is not None:
            # The input of BigGAN's first layer is z alone.
            takes_class = path != "linear" or isinstance(network, BigGANDeepGenerator)
            if takes_class and (z := module.in_features - table.embedding_dim):
                signatures[f"{path}.weight"] = (module.out_features, f"{table.embedding_dim}+{z}")
    return signatures


def _options(part: str, candidates: Candidates, partner: Mapping[str, str]) -> list[str]:
    """Return the source's parts that may initialize `part`, the likeliest first."""
    kind, _, number = part.partition(".")
    if kind == "blocks":
        return [f"blocks.{k}" for k in candidates[int(number)]]
    if kind == "attention":
        block = partner.get(f"blocks.{number}")
        return [] if block is None else [block.replace("blocks", "attention")]
    return [part]


def _mismatch(target: _Part, source: _Part) -> str | None:
    """Return the reason why `source` cannot initialize `target`; None if it can."""
    layers = source.layers()
    for name in sorted({*target.layers(), *layers}):
        if name not in layers:
            return f"the source has no {name}"
        if name not in target.tensors:
            return f"the source has an additional {name}"
        if target.signatures[name] != source.signatures[name]:
            return f"{name} is {_shown(target.signatures[name])}, the source's {_shown(source.signatures[name])}"
    return None


def _take(target: _Part, source: _Part, classes: Sequence[ClassRow]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors for `target`, and a text for each way in which they differ from the source's."""
    taken: dict[str, Tensor] = {}
    left, changes = [], []
    for name in target.weights():
        if name not in source.tensors or target.signatures[name] != source.signatures[name]:
            left.append(name)
        elif target.is_table(name) and not is_identity(classes, len(source.tensors[name])):
            taken[name] = map_table(source.tensors[name], classes)
            changes = ["class rows"]
        else:
            taken[name] = source.tensors[name]
    for name in target.tensors.keys() - set(target.weights()):
        weight = f"{name[:-1]}weight"
        if weight in taken:
            taken[name] = _power_iteration_vector(taken[weight], source.tensors[weight], source.tensors.get(name))
    if left:
        first = left[0]
        theirs = _shown(source.signatures[first]) if first in source.tensors else "missing"
        changes.append(f"left: {', '.join(left)} ({_shown(target.signatures[first])}, the source's {theirs})")
    return taken, changes


def _shown(signature: Signature) -> str:
    return f"[{', '.join(map(str, signature))}]"


def _power_iteration_vector(weight: Tensor, source_weight: Tensor, u: Tensor | None) -> Tensor:
    """Return the vector of power iteration that makes spectral norm divide `weight` as it divided the source's weight.

    The divisor is the estimate of the source's `u`, or 1 if the source has no `u`.
    """
    if u is None:
        return vector_for_estimate(weight, 1.0)
    if weight is source_weight:
        return u
    matrix = as_matrix(source_weight)
    return vector_for_estimate(weight, float((matrix @ F.normalize(u @ matrix, dim=0)).norm()))


def vector_for_estimate(weight: Tensor, estimate: float) -> Tensor:
    """Return a unit vector u [out] with which one power iteration on `weight` yields the singular value `estimate`.

    If no vector does, return the left singular vector of the largest singular value.

    The weights of an export were divided by training's estimate, which is never above the true value. Their largest
    singular value is therefore 1 or slightly more. With this u the network starts as the same function. The next
    forward passes in training move the estimate to the true value.
    """
    left, sigma, _ = torch.linalg.svd(as_matrix(weight).double() / estimate, full_matrices=False)
    below = (sigma < 1).nonzero()
    if sigma[0] <= 1 or not len(below):
        return left[:, 0].to(weight.dtype)
    # u = a u_0 + b u_k gives the estimate sqrt((a^2 s_0^4 + b^2 s_k^4) / (a^2 s_0^2 + b^2 s_k^2)); solved for 1.
    k = int(below[0])
    first, other = sigma[0], sigma[k]
    a, b = other * (1 - other**2).sqrt(), first * (first**2 - 1).sqrt()
    return F.normalize(a * left[:, 0] + b * left[:, k], dim=0).to(weight.dtype)
