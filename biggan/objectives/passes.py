"""One forward pass of D over rows of several kinds: the only place that concatenates and splits a batch.

Fake and real images, and whatever rows a penalty adds, share one forward. So DDP and ZeRO see one forward per
micro-batch, and spectral norm's power iteration advances once, whatever is switched on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from biggan.draws import Draw

Images = Tensor | tuple[Tensor, ...]
"""Images float [n, C, R, R], or a pyramid of them, one tensor per resolution."""
FAKE, REAL = "fake", "real"


@dataclass(frozen=True)
class Samples:
    """Rows of one kind: images in [-1, 1] and labels int64 [n]."""

    images: Images
    labels: Tensor


@dataclass(frozen=True)
class Judged(Samples):
    """Rows of one kind, before the views of both turns, with the labels that D saw and what it returned."""

    logits: Tensor
    """[n], float32 (float64 of a float64 D)."""
    outputs: Mapping[str, Tensor]
    """Further outputs of D by name, each [n, ...]; empty unless an objective asks for some."""


@dataclass
class Pass:
    """One micro-batch as D has judged it: `rows` by kind, "fake" first, then "real", then the rows of penalties."""

    rows: Mapping[str, Judged]
    differentiated: Collection[str]
    """Kinds whose images require grad: `input_gradient` is available for them."""
    draw: Draw
    _gradients: dict[str, Tensor] = field(default_factory=dict)

    @property
    def fake(self) -> Judged:
        """The generator's images."""
        return self.rows[FAKE]

    @property
    def real(self) -> Judged:
        """Real images. G's pass has them only if its objective asks for them."""
        return self.rows[REAL]

    def input_gradient(self, kind: str) -> Tensor:
        """Return the gradient of D's logits with respect to the images of one kind, [n, C, R, R].

        It is itself differentiable. All kinds are differentiated in one backward pass, when the first is asked for:
        a row's logit depends on its own image only.
        """
        if not self._gradients:
            kinds = [self.rows[name] for name in self.differentiated]
            logits = [rows.logits.sum() for rows in kinds]
            gradients = torch.autograd.grad(logits, [single(rows.images) for rows in kinds], create_graph=True)
            self._gradients.update(zip(self.differentiated, gradients, strict=True))
        return self._gradients[kind]


def judge(
    D: Callable[..., Any], shown: Mapping[str, Samples], outputs: tuple[str, ...]
) -> dict[str, tuple[Tensor, dict[str, Tensor]]]:
    """Return D's logits [n] and further `outputs`, at least float32, for every kind of rows, from one forward pass.

    D receives the images, the labels, the number of rows of each kind (a layer that mixes samples must not mix kinds)
    and the names of further outputs; with any, it returns a dictionary with `logits` and those names.
    """
    sizes = tuple(len(rows.labels) for rows in shown.values())
    images = concatenated([rows.images for rows in shown.values()])
    labels = concatenated([rows.labels for rows in shown.values()])
    returned = D(images, labels, sizes, outputs)
    named: dict[str, Tensor] = returned if outputs else {"logits": returned}
    split = {
        name: named[name].to(torch.promote_types(named[name].dtype, torch.float32)).split(sizes)
        for name in ("logits", *outputs)
    }
    return {
        kind: (split["logits"][k], {name: split[name][k] for name in outputs}) for k, kind in enumerate(shown)
    }  # fmt: skip


def mapped(change: Callable[[Tensor], Tensor], images: Images) -> Images:
    """Return the images, or every resolution of a pyramid, after `change`."""
    return tuple(change(level) for level in images) if isinstance(images, tuple) else change(images)


def single(images: Images) -> Tensor:
    """Return the images of rows that have one tensor of them."""
    assert isinstance(images, Tensor), "a pyramid has no single image per sample"
    return images


def concatenated(parts: list[Any]) -> Any:
    """Return the rows of all parts in one tensor, or in one pyramid of tensors."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))
    return torch.cat(parts)
