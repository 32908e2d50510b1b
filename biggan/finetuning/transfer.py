"""Which tensors of a source a network begins with: a pure function of two networks.

Networks are compared part by part (a block, the attention after it, the first layer, ...). A part is taken if all its
layers have the same forms; of a block that is, the maps from the condition to BatchNorm's gain and bias are taken one
by one, since they alone depend on the size of z and of the class embedding.
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
from biggan.finetuning.class_mapping import ClassRow, begun_table, same_rows
from biggan.models.biggan_deep import BigGANDeepGenerator
from biggan.models.layers import as_matrix
from biggan.models.networks import Generator

Form = tuple[str | int, ...]
"""A tensor's shape. That of a table does not depend on the number of classes; that of a map from the condition, class
embedding and z beside each other, says how its columns are shared out."""
Outcome = Literal["taken", "adapted", "left", "unused"]

CLASSES = "classes"


@dataclass(frozen=True)
class Row:
    """What became of one part: `taken` as it is, `adapted` (the detail says how), `left` as the run drew it, or
    `unused` (the source's, and the run's network has no such part)."""

    part: str
    """`G.blocks.0`."""
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Transfer:
    """What a network begins with."""

    tensors: Mapping[str, Tensor]
    """Parameters and buffers by their names in the network; those that are not here stay as they were drawn."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class _Part:
    """Tensors and their forms, by their names inside the part."""

    tensors: dict[str, Tensor]
    forms: dict[str, Form]

    def is_table(self, name: str) -> bool:
        """Whether it has a row for each class."""
        return self.forms[name][0] == CLASSES

    def weights(self) -> list[str]:
        """All but the vectors of power iteration, which follow from them."""
        return [name for name in self.tensors if not re.search(r"(^|\.)u$", name)]

    def layers(self) -> list[str]:
        """Those that must fit for the part to be taken."""
        return [name for name in self.weights() if not re.fullmatch(r"bn\d\.(gain|bias)\.weight", name)]


def transferred(
    name: str, target: nn.Module, source: nn.Module, candidates: Candidates, classes: Sequence[ClassRow]
) -> Transfer:
    """What `target`, the network called `name` (G or D; shapes alone are enough), begins with of `source`.

    `candidates` are the source's blocks for each of the target's; `classes` the rows of its tables.
    """
    mine, theirs = _parts(target), _parts(source)
    partner: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    rows: list[Row] = []
    for part, wanted in mine.items():
        options = [option for option in _options(part, candidates, partner) if option in theirs]
        misfits = [_misfit(wanted, theirs[option]) for option in options]
        if None not in misfits:
            rows.append(Row(f"{name}.{part}", "left", misfits[0] or "" if misfits else "the source has none there"))
            continue
        partner[part] = chosen = options[misfits.index(None)]
        taken, changes = _taken(wanted, theirs[chosen], classes)
        tensors |= {f"{part}.{key}": tensor for key, tensor in taken.items()}
        if chosen != part:
            changes.insert(0, f"from {chosen}")
        adapted = changes and (len(changes) > 1 or chosen == part)
        rows.append(Row(f"{name}.{part}", "adapted" if adapted else "taken", "; ".join(changes)))
    unused = [part for part in theirs if part not in mine and part not in partner.values()]
    rows += [Row(f"{name}.{part}", "unused", "the source's") for part in unused]
    return Transfer(tensors, tuple(rows))


def _parts(network: nn.Module) -> dict[str, _Part]:
    """`blocks.K`, `attention.K` and each other child, blocks first: the attention after one follows it."""
    special = _special_forms(network)
    found: dict[str, _Part] = {}
    for path, tensor in network.state_dict().items():
        depth = 2 if path.startswith(("blocks.", "attention.")) else 1
        keys = path.split(".")
        part, name = found.setdefault(".".join(keys[:depth]), _Part({}, {})), ".".join(keys[depth:])
        part.tensors[name], part.forms[name] = tensor, special.get(path, tuple(tensor.shape))
    return dict(sorted(found.items(), key=lambda item: item[0].startswith("attention.")))


def _special_forms(network: nn.Module) -> dict[str, Form]:
    """Of the tables, and of the maps from a condition that has both a class embedding and z."""
    forms: dict[str, Form] = {}
    table = network.class_embedding if isinstance(network, Generator) else None
    for path, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            forms[f"{path}.weight"] = (CLASSES, module.embedding_dim)
        elif isinstance(module, nn.Linear) and table is not None:
            # BigGAN's first layer takes z alone.
            takes_class = path != "linear" or isinstance(network, BigGANDeepGenerator)
            if takes_class and (z := module.in_features - table.embedding_dim):
                forms[f"{path}.weight"] = (module.out_features, f"{table.embedding_dim}+{z}")
    return forms


def _options(part: str, candidates: Candidates, partner: Mapping[str, str]) -> list[str]:
    """The source's parts that may stand for `part`."""
    kind, _, number = part.partition(".")
    if kind == "blocks":
        return [f"blocks.{k}" for k in candidates[int(number)]]
    if kind == "attention":
        block = partner.get(f"blocks.{number}")
        return [] if block is None else [block.replace("blocks", "attention")]
    return [part]


def _misfit(wanted: _Part, found: _Part) -> str | None:
    """Why a part cannot be taken; None if it can."""
    layers = found.layers()
    for name in sorted({*wanted.layers(), *layers}):
        if name not in layers:
            return f"the source's has no {name}"
        if name not in wanted.tensors:
            return f"the source's has a {name}"
        if wanted.forms[name] != found.forms[name]:
            return f"{name} is {_shown(wanted.forms[name])}, the source's {_shown(found.forms[name])}"
    return None


def _taken(wanted: _Part, found: _Part, classes: Sequence[ClassRow]) -> tuple[dict[str, Tensor], list[str]]:
    """A part's tensors, and what of them is not just the source's."""
    taken: dict[str, Tensor] = {}
    left, changes = [], []
    for name in wanted.weights():
        if name not in found.tensors or wanted.forms[name] != found.forms[name]:
            left.append(name)
        elif wanted.is_table(name) and not same_rows(classes, len(found.tensors[name])):
            taken[name] = begun_table(found.tensors[name], classes)
            changes = ["class rows"]
        else:
            taken[name] = found.tensors[name]
    for name in wanted.tensors.keys() - set(wanted.weights()):
        weight = f"{name[:-1]}weight"
        if weight in taken:
            taken[name] = _vector(taken[weight], found.tensors[weight], found.tensors.get(name))
    if left:
        first = left[0]
        theirs = _shown(found.forms[first]) if first in found.tensors else "not there"
        changes.append(f"left: {', '.join(left)} ({_shown(wanted.forms[first])}, the source's {theirs})")
    return taken, changes


def _shown(form: Form) -> str:
    return f"[{', '.join(map(str, form))}]"


def _vector(weight: Tensor, theirs: Tensor, u: Tensor | None) -> Tensor:
    """The vector of power iteration with which `weight` is divided as the source's weight was: by the estimate of its
    `u`, or by nothing if it has none."""
    if u is None:
        return left_vector(weight, 1.0)
    if weight is theirs:
        return u
    matrix = as_matrix(theirs)
    return left_vector(weight, float((matrix @ F.normalize(u @ matrix, dim=0)).norm()))


def left_vector(weight: Tensor, estimate: float) -> Tensor:
    """A unit vector u [out] from which one power iteration takes the largest singular value of `weight` for `estimate`,
    where that can be; else the left singular vector itself.

    An export's weights are divided by the estimate that training had, which is never above the true value: the largest
    singular value of what is left is 1 or a little more. With this u the network begins as the same function; the next
    forward passes in training move it to the true value.
    """
    left, sigma, _ = torch.linalg.svd(as_matrix(weight).double() / estimate, full_matrices=False)
    below = (sigma < 1).nonzero()
    if sigma[0] <= 1 or not len(below):
        return left[:, 0].to(weight.dtype)
    # u = a u_0 + b u_k gives the estimate sqrt((a^2 s_0^4 + b^2 s_k^4) / (a^2 s_0^2 + b^2 s_k^2)); it is to be 1.
    k = int(below[0])
    first, other = sigma[0], sigma[k]
    a, b = other * (1 - other**2).sqrt(), first * (first**2 - 1).sqrt()
    return F.normalize(a * left[:, 0] + b * left[:, k], dim=0).to(weight.dtype)
