"""One training step: the algorithm of Brock et al. 2018 (appendix C), on one screen.

The generator runs in training mode for the discriminator's fakes too, without gradients: each such forward
moves its BatchNorm statistics and advances its power iteration, as in the published code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.distributed.engine import Engine, frozen, staying
from biggan.gan import Gan, Stats
from biggan.models.networks import lower_layers
from biggan.objectives.logit_statistics import D_STATISTICS, d_statistics
from biggan.objectives.losses import HINGE, Loss
from biggan.objectives.regularizers import orthogonal_penalty, orthogonal_weights, r1_penalty, twice_differentiable
from biggan.objectives.spectral import SpectralLimit
from biggan.training.latents import Latents

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FrozenBlocks:
    """The first blocks of a network, whose weights stay until a step."""

    blocks: int = 0
    until_step: int = 0

    def at(self, step: int) -> int:
        """How many blocks stay in G step `step`."""
        return self.blocks if step <= self.until_step else 0


@dataclass(frozen=True)
class Recipe:
    """What the step does, besides what the networks are. The defaults intervene in nothing."""

    d_steps: int
    accumulation: int
    orthogonal: float
    autocast: torch.autocast
    loss: Loss = HINGE
    r1_gamma: float = 0.0
    r1_every_d_steps: int = 1
    spectral: SpectralLimit | None = None
    g_frozen_until_step: int = 0
    d_frozen_until_step: int = 0
    g_lower: FrozenBlocks = FrozenBlocks()
    d_lower: FrozenBlocks = FrozenBlocks()

    def r1_gamma_at(self, step: int, use: int) -> float:
        """R1's strength in D update `use` (from 0) of G step `step`: in every so many, so many times as much."""
        due = ((step - 1) * self.d_steps + use) % self.r1_every_d_steps == 0
        return self.r1_gamma * self.r1_every_d_steps if due else 0.0


def train_step(gan: Gan, step: int, real: Batches, latents: Latents, recipe: Recipe) -> Stats:
    """`d_steps` discriminator updates, one generator update, one EMA update; scalars, still on the device.

    `real` yields (images float [n, 3, R, R] in [-1, 1], labels int64 [n]), a micro-batch at a time. A frozen network's
    losses and gradients are as ever; only its weights, Adam and average stay. The statistics, those of D_STATISTICS and
    g_loss, g_grad_norm, d_grad_norm, may be averaged over steps and processes.
    """
    for use in range(recipe.d_steps):
        r1_gamma, update = recipe.r1_gamma_at(step, use), step > recipe.d_frozen_until_step
        d_stats = update_discriminator(gan, real, latents(step, use), recipe, r1_gamma, update, recipe.d_lower.at(step))
    update = step > recipe.g_frozen_until_step
    g_stats = update_generator(gan, latents(step, recipe.d_steps), recipe, update, recipe.g_lower.at(step))
    if update:
        gan.ema.update(gan.generator.module, step, gan.generator.guard.veto)
    return d_stats | g_stats


def update_discriminator(
    gan: Gan,
    real: Batches,
    latents: Batches,
    recipe: Recipe,
    r1_gamma: float = 0.0,
    update: bool = True,
    lower: int = 0,
) -> Stats:
    """The loss on fake and real images in one forward pass, so that D's power iteration advances once."""
    D, seen = gan.discriminator, []
    for last, (z, y_fake) in marked_last(latents, recipe.accumulation):
        x_real, y_real = next(real)
        x_real.requires_grad_(r1_gamma > 0)
        with D.micro_step(last):
            with recipe.autocast, twice_differentiable(r1_gamma > 0):
                with torch.no_grad():
                    x_fake = gan.generator.module(z, y_fake)
                logits = D(torch.cat([x_fake.float(), x_real]), torch.cat([y_fake, y_real]))
            fake_logits, real_logits = logits.float().split([len(y_fake), len(y_real)])
            loss_real, loss_fake = recipe.loss.discriminator(real_logits, fake_logits)
            loss = loss_real + loss_fake
            if r1_gamma:
                loss = loss + r1_gamma * r1_penalty(real_logits, x_real)
            loss = loss / recipe.accumulation
            if recipe.spectral and last:
                loss = recipe.spectral.penalized(loss, D.module, "D")
            D.backward(loss)
        seen.append(d_statistics(loss_real, loss_fake, real_logits, fake_logits))
    means = dict(zip(D_STATISTICS, torch.stack(seen).mean(0), strict=True))
    return means | {"d_grad_norm": step_weights(D, "D", recipe, update, lower)}


def update_generator(gan: Gan, latents: Batches, recipe: Recipe, update: bool = True, lower: int = 0) -> Stats:
    """The generator's loss through a frozen D, plus regularization of its weights once per update."""
    G, losses = gan.generator, []
    for last, (z, y) in marked_last(latents, recipe.accumulation):
        with G.micro_step(last), frozen(gan.discriminator.module) as D:
            with recipe.autocast:
                logits = D(G(z, y), y)
            loss = recipe.loss.generator(logits.float())
            losses.append(loss.detach())
            loss = loss / recipe.accumulation
            if recipe.orthogonal and last:
                loss = loss + recipe.orthogonal * orthogonal_penalty(orthogonal_weights(G.module))
            if recipe.spectral and last:
                loss = recipe.spectral.penalized(loss, G.module, "G")
            G.backward(loss)
    return {"g_loss": torch.stack(losses).mean(), "g_grad_norm": step_weights(G, "G", recipe, update, lower)}


def step_weights(engine: Engine, name: str, recipe: Recipe, update: bool, lower: int) -> Tensor:
    """Adam's update, then the clamp, unless the network is frozen; `lower` blocks stay. The gradient's norm."""
    with staying(engine, list(lower_layers(engine.module, lower).values())):
        norm = engine.step(update)
        if update and recipe.spectral and recipe.spectral.clamp:
            with engine.changing_weights() as network:
                recipe.spectral.clamp_(network, name, engine.guard.veto)
    return norm


def marked_last(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[bool, tuple[Tensor, Tensor]]]:
    """Pair each of `count` micro-batches with whether it is the last."""
    for k, batch in enumerate(batches):
        yield k == count - 1, batch
