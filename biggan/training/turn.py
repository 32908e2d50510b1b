"""The recipe of a run, and what it gives for one update: a `Turn`, with everything that is due and its weight.

Schedules are resolved here, on the host, before the update. A weight reaches the device as a scalar tensor, so that
a captured graph, which reads the tensor, follows the schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from biggan.config.schedule import Varying, value_at
from biggan.distributed.engine import AdamSettings, Engine, restored_on_exit
from biggan.draws import Draw
from biggan.gan import Stats
from biggan.models.networks import first_blocks
from biggan.objectives.adversarial import HINGE, logit_statistics
from biggan.objectives.passes import FAKE, REAL, Judged, Pass, Samples, judge, mapped, single
from biggan.objectives.penalties import twice_differentiable
from biggan.objectives.seams import Adversarial, Constraint, Term, View, WeightTerm

Part = TypeVar("Part", Term, WeightTerm)


class DeviceScalar:
    """A number on the device, written only when it changes."""

    def __init__(self, device: torch.device):
        self.tensor = torch.zeros((), device=device)
        self._value = 0.0

    def set(self, value: float) -> Tensor:
        """Return the tensor with `value` in it. The host never waits for the device."""
        if value != self._value:
            self._value = value
            self.tensor.fill_(value)
        return self.tensor


@dataclass(frozen=True)
class Scheduled(Generic[Part]):
    """A term of a loss with its weight, computed in every `every`-th update with `every` times the weight."""

    part: Part
    weight: float | Varying
    every: int = 1
    on_device: DeviceScalar = field(default_factory=lambda: DeviceScalar(torch.device("cpu")))

    def due(self, step: int, update_index: int) -> tuple[Part, Tensor] | None:
        """Return the term and its weight in update `update_index` (from 0, over the run) of G step `step`; None if it
        is not due."""
        weight = value_at(self.weight, step) * self.every
        if weight == 0 or update_index % self.every:
            return None
        return self.part, self.on_device.set(weight)


@dataclass(frozen=True)
class FrozenBlocks:
    """The first blocks of a network, frozen up to a G step."""

    blocks: int = 0
    until_step: int = 0

    def at(self, step: int) -> int:
        """Return the number of blocks that are frozen in G step `step`."""
        return self.blocks if step <= self.until_step else 0


@dataclass(frozen=True)
class AdamSchedule:
    """Adam's settings over a run."""

    lr: float | Varying
    beta1: float | Varying
    beta2: float | Varying
    eps: float
    max_grad_norm: float

    def at(self, step: int) -> AdamSettings:
        """Return the settings in G step `step`."""
        betas = value_at(self.beta1, step), value_at(self.beta2, step)
        return AdamSettings(value_at(self.lr, step), betas, self.eps, self.max_grad_norm)


@dataclass(frozen=True)
class NetworkRecipe:
    """Everything that is done to one network besides its adversarial loss. The defaults do nothing."""

    views: tuple[View, ...] = ()
    """Changes of the samples in this network's turn alone, such as a replay of earlier fakes. They come first, and what
    they return are the samples: gradients at D's input are taken there."""
    terms: tuple[Scheduled[Term], ...] = ()
    weight_terms: tuple[Scheduled[WeightTerm], ...] = ()
    constraints: tuple[Constraint, ...] = ()
    adam: AdamSchedule | None = None
    """None keeps the engine's."""
    frozen_until_step: int = 0
    frozen_blocks: FrozenBlocks = FrozenBlocks()

    def __post_init__(self) -> None:
        names = [FAKE, REAL, *(term.part.name for term in self.terms)]
        if len(set(names)) < len(names):
            raise ValueError(f"terms need names of their own, other than '{FAKE}' and '{REAL}': {names[2:]}")


@dataclass(frozen=True)
class Recipe:
    """Everything the step does besides the networks themselves. The defaults are BigGAN's."""

    d_steps: int
    accumulation: int
    autocast: torch.autocast
    adversarial: Adversarial = HINGE
    views: tuple[View, ...] = ()
    """Changes of what D sees, in order, in both turns. Gradients pass through them to the samples."""
    generator: NetworkRecipe = NetworkRecipe()
    discriminator: NetworkRecipe = NetworkRecipe()

    @property
    def generator_needs_real(self) -> bool:
        """True if G's turn reads real images."""
        return self.adversarial.needs_real or any(scheduled.part.needs_real for scheduled in self.generator.terms)

    @property
    def real_batches(self) -> int:
        """Number of real micro-batches in one step."""
        return (self.d_steps + self.generator_needs_real) * self.accumulation

    def d_turn(self, step: int, update_index: int) -> Turn:
        """Return D's update `update_index`, from 0, of G step `step`."""
        return self._turn(self.discriminator, step, (step - 1) * self.d_steps + update_index)

    def g_turn(self, step: int) -> Turn:
        """Return G's update of G step `step`."""
        return self._turn(self.generator, step, step - 1)

    def scheduled_values(self, step: int) -> dict[str, float]:
        """Return what schedules give in G step `step`, by the name of a metric; empty without schedules."""
        values: dict[str, float | Varying] = {}
        for prefix, network in (("g", self.generator), ("d", self.discriminator)):
            if network.adam is not None:
                values |= {f"{prefix}_{rate}": getattr(network.adam, rate) for rate in ("lr", "beta1", "beta2")}
            values |= {f"{prefix}_{term.part.name}_weight": term.weight for term in network.terms}
            values |= {
                f"{prefix}_{of_weights.part.name}_weight": of_weights.weight for of_weights in network.weight_terms
            }
        return {f"schedule/{name}": v.at(step) for name, v in values.items() if not isinstance(v, int | float)}

    def _turn(self, network: NetworkRecipe, step: int, updates: int) -> Turn:
        return Turn(
            adversarial=self.adversarial,
            views=self.views,
            own_views=network.views,
            terms=tuple(due for term in network.terms if (due := term.due(step, updates))),
            weight_terms=tuple(w for term in network.weight_terms if (w := term.due(step, updates))),
            constraints=network.constraints,
            adam=None if network.adam is None else network.adam.at(step),
            update=step > network.frozen_until_step,
            frozen_blocks=network.frozen_blocks.at(step),
            accumulation=self.accumulation,
            autocast=self.autocast,
        )


@dataclass(frozen=True)
class Turn:
    """Everything that one update of one network does."""

    adversarial: Adversarial
    views: tuple[View, ...]
    own_views: tuple[View, ...]
    terms: tuple[tuple[Term, Tensor], ...]
    weight_terms: tuple[tuple[WeightTerm, Tensor], ...]
    constraints: tuple[Constraint, ...]
    adam: AdamSettings | None
    update: bool
    """False: the network is frozen."""
    frozen_blocks: int
    accumulation: int
    autocast: torch.autocast

    @property
    def paired(self) -> bool:
        """True if fake images take the labels of the real ones."""
        return self.adversarial.paired or any(term.paired for term, _ in self.terms)

    @property
    def differentiated(self) -> tuple[str, ...]:
        """Kinds of rows whose input gradient a term needs."""
        return tuple(dict.fromkeys(kind for term, _ in self.terms for kind in term.differentiates))

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Enclose forward passes: their precision, and twice differentiable where a term needs it."""
        with self.autocast, twice_differentiable(bool(self.differentiated)):
            yield

    def judge(self, D: Engine | nn.Module, fake: Samples, real: Samples | None, draw: Draw) -> Pass:
        """Show D all rows in one joint forward pass: fake and real images through the view, and the terms' rows."""
        rows = viewed({FAKE: fake} if real is None else {FAKE: fake, REAL: real}, self.own_views, draw)
        for kind in self.differentiated:
            if kind in rows and not single(rows[kind].images).requires_grad:
                # A tensor of its own: the caller's images must not require grad in a later update.
                rows[kind] = Samples(single(rows[kind].images).detach().requires_grad_(), rows[kind].labels)
        shown = viewed(rows, self.views, draw)
        for term, _ in self.terms:
            if real is not None and (extra := term.extra_rows(shown[FAKE], shown[REAL], draw)) is not None:
                constants = Samples(mapped(Tensor.detach, extra.images), extra.labels)
                if term.name in term.differentiates:
                    single(constants.images).requires_grad_()
                rows[term.name] = shown[term.name] = constants
        needed = (self.adversarial.outputs, *(term.outputs for term, _ in self.terms))
        results = judge(D, shown, tuple(dict.fromkeys(name for names in needed for name in names)))
        judged = {kind: Judged(part.images, shown[kind].labels, *results[kind]) for kind, part in rows.items()}
        return Pass(judged, self.differentiated, draw)

    def values(self, judged: Pass) -> Stats:
        """Return the values of the terms, without their weights, by name."""
        return {term.name: term(judged) for term, _ in self.terms}

    def statistics(self, network: str, losses: Stats, terms: Stats, judged: Pass | None = None) -> Stats:
        """Return what is logged of one micro-batch of `network`, "d" or "g"; of D also statistics of its logits."""
        named = {name: value.detach() for name, value in losses.items()}
        named |= {f"{network}_{name}": value.detach() for name, value in terms.items()}
        return named if judged is None else named | logit_statistics(judged, self.adversarial.level)

    def total(self, losses: Stats, terms: Stats, network: nn.Module, last: bool) -> Tensor:
        """Return the loss of one micro-batch: adversarial and weighted terms as a share of the update, weight terms."""
        weights = {term.name: weight for term, weight in self.terms}
        loss = reduce(torch.add, [*losses.values(), *(weights[name] * value for name, value in terms.items())])
        loss = loss / self.accumulation
        # A term of the weights does not depend on the batch: once per update is enough.
        for term, weight in self.weight_terms if last else ():
            loss = loss + weight * term(network)
        return loss

    def apply(self, engine: Engine) -> Tensor:
        """Update the network, unless it is frozen, and constrain its weights; return the gradient norm."""
        if self.adam is not None:
            engine.set_adam(self.adam)
        with restored_on_exit(engine, list(first_blocks(engine.module, self.frozen_blocks).values())):
            norm = engine.step(self.update)
            for constraint in self.constraints if self.update else ():
                with engine.changing_weights() as network:
                    constraint(network, engine.guard.veto)
        return norm


def viewed(rows: Mapping[str, Samples], views: Sequence[View], draw: Draw) -> dict[str, Samples]:
    """Return the rows of every kind after all views, one after the other."""
    shown = dict(rows)
    for view in views:
        shown = {kind: view(samples, kind, draw) for kind, samples in shown.items()}
    return shown
