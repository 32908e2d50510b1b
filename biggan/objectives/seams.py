"""The seams of the training step: the kinds of parts that a recipe is composed of.

The step knows these types and no technique. docs/extending.md shows how to write each one.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from biggan.draws import Draw
from biggan.objectives.passes import Pass, Samples


class View(Protocol):
    """A change of the samples before D sees them: augmentation, noise, a replay of earlier fakes."""

    def __call__(self, samples: Samples, kind: str, draw: Draw) -> Samples:
        """Return the rows of one kind, "fake" or "real", that D sees; in G's turn differentiable: G learns through it.

        The number of rows stays the same.
        """


class Adversarial:
    """The losses that set D against G."""

    level: float | None = None
    """The logit between real and fake; None if only the difference of two logits has a meaning."""
    paired: bool = False
    """True: fake images are compared with real ones row by row, so both have the real ones' labels."""
    needs_real: bool = False
    """True: G's loss needs real images, too; G's turn then reads a batch of its own."""
    outputs: tuple[str, ...] = ()
    """Further outputs of D that the losses need."""

    def discriminator(self, judged: Pass) -> dict[str, Tensor]:
        """Return the terms of D's loss by name, scalars; their sum is the loss."""
        raise NotImplementedError

    def generator(self, judged: Pass) -> dict[str, Tensor]:
        """Return the terms of G's loss by name, scalars; their sum is the loss."""
        raise NotImplementedError


class Term:
    """A further term of a network's loss that depends on the samples: a gradient penalty, feature matching."""

    name: str
    """Name of its value in the statistics, without the network's prefix."""
    differentiates: tuple[str, ...] = ()
    """Kinds of rows whose input gradient it needs; its own rows have the kind `name`."""
    paired: bool = False
    """True: it needs fake images with the labels of the real ones."""
    needs_real: bool = False
    """True: it needs real images in G's turn, too."""
    outputs: tuple[str, ...] = ()
    """Further outputs of D that it needs."""

    def extra_rows(self, fake: Samples, real: Samples, draw: Draw) -> Samples | None:  # noqa: ARG002
        """Return rows to add to the joint forward pass, taken as constants; None for none."""
        return None

    def __call__(self, judged: Pass) -> Tensor:
        """Return the term's value without its weight, a scalar."""
        raise NotImplementedError


class WeightTerm:
    """A term of a network's loss that depends on its weights only, computed once per update outside autocast."""

    name: str
    """Name of its weight in the statistics, without the network's prefix."""

    def __call__(self, network: nn.Module) -> Tensor:
        """Return the term's value without its weight, a scalar."""
        raise NotImplementedError


class Constraint(Protocol):
    """A change of a network's weights after each of its updates, the same on all processes."""

    def __call__(self, network: nn.Module, veto: Tensor) -> None:
        """Change the weights in place, unless the scalar `veto` on the device is 1."""
