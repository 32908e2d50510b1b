"""One training step: the algorithm of Brock et al. 2018 (appendix C).

G runs in training mode for D's fakes too, without gradients. Each such forward moves G's BatchNorm statistics and
advances its power iteration, as in the published code: this cadence is part of the trajectory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.distributed.engine import Engine, frozen, restored_on_exit
from biggan.gan import Gan, Stats
from biggan.models.networks import first_blocks
from biggan.objectives.logit_statistics import D_STATISTICS, d_statistics
from biggan.objectives.losses import HINGE, Loss
from biggan.objectives.regularizers import orthogonal_penalty, orthogonal_weights, r1_penalty, twice_differentiable
from biggan.objectives.spectral import SpectralLimit
from biggan.training.latents import Latents

Batches = Iterator[tuple[Tensor, Tensor]]
"""Micro-batches: (images or z, labels)."""


@dataclass(frozen=True)
class FrozenBlocks:
    """The first blocks of a network, frozen up to a G step."""

    blocks: int = 0
    until_step: int = 0

    def at(self, step: int) -> int:
        """Return the number of blocks that are frozen in G step `step`."""
        return self.blocks if step <= self.until_step else 0


@dataclass(frozen=True)
class Recipe:
    """Everything the step does besides the networks themselves. The defaults intervene in nothing."""

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
    g_frozen_blocks: FrozenBlocks = FrozenBlocks()
    d_frozen_blocks: FrozenBlocks = FrozenBlocks()

    def r1_gamma_at(self, step: int, update_index: int) -> float:
        """Return R1's strength in D update `update_index` (from 0) of G step `step`.

        R1 is computed in every n-th D update with n times the strength, which is cheaper and on average the same.
        """
        due = ((step - 1) * self.d_steps + update_index) % self.r1_every_d_steps == 0
        return self.r1_gamma * self.r1_every_d_steps if due else 0.0


def train_step(gan: Gan, step: int, real: Batches, latents: Latents, recipe: Recipe) -> Stats:
    """Update D `d_steps` times, then G and the EMA once; return scalars on the device.

    `real` yields (images float [n, 3, R, R] in [-1, 1], labels int64 [n]), one micro-batch at a time. A frozen network
    still computes its loss and gradients, but its weights and its Adam state do not change; while G is frozen, neither
    does the EMA. The statistics (D_STATISTICS, g_loss, g_grad_norm, d_grad_norm) may be averaged over steps and
    processes.
    """
    for k in range(recipe.d_steps):
        # Latents are keyed by (step, k), so they do not depend on how many updates were made before.
        r1_gamma, update = recipe.r1_gamma_at(step, k), step > recipe.d_frozen_until_step
        frozen_blocks = recipe.d_frozen_blocks.at(step)
        d_stats = update_discriminator(gan, real, latents(step, k), recipe, r1_gamma, update, frozen_blocks)
    update = step > recipe.g_frozen_until_step
    g_stats = update_generator(gan, latents(step, recipe.d_steps), recipe, update, recipe.g_frozen_blocks.at(step))
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
    frozen_blocks: int = 0,
) -> Stats:
    """Update D once, on the loss of fake and real images in one forward pass."""
    D, stats = gan.discriminator, []
    for last, (z, y_fake) in marked_last(latents, recipe.accumulation):
        x_real, y_real = next(real)
        x_real.requires_grad_(r1_gamma > 0)
        with D.micro_step(last):
            with recipe.autocast, twice_differentiable(r1_gamma > 0):
                # The bare module, not the engine: this forward has no backward, and must not prepare a reduction.
                with torch.no_grad():
                    x_fake = gan.generator.module(z, y_fake)
                # One forward for both, so that D's power iteration advances once per micro-batch.
                logits = D(torch.cat([x_fake.float(), x_real]), torch.cat([y_fake, y_real]))
            fake_logits, real_logits = logits.float().split([len(y_fake), len(y_real)])
            loss_real, loss_fake = recipe.loss.discriminator(real_logits, fake_logits)
            loss = loss_real + loss_fake
            if r1_gamma:
                loss = loss + r1_gamma * r1_penalty(real_logits, x_real)
            loss = loss / recipe.accumulation
            # A penalty on weights does not depend on the batch: once per update is enough.
            if recipe.spectral and last:
                loss = recipe.spectral.penalized(loss, D.module, "D")
            D.backward(loss)
        stats.append(d_statistics(loss_real, loss_fake, real_logits, fake_logits))
    means = dict(zip(D_STATISTICS, torch.stack(stats).mean(0), strict=True))
    return means | {"d_grad_norm": apply_gradients(D, "D", recipe, update, frozen_blocks)}


def update_generator(gan: Gan, latents: Batches, recipe: Recipe, update: bool = True, frozen_blocks: int = 0) -> Stats:
    """Update G once: its loss through a frozen D, plus the penalties on its weights."""
    G, losses = gan.generator, []
    for last, (z, y) in marked_last(latents, recipe.accumulation):
        # D is frozen, so gradients pass through it without being accumulated in it for its next update.
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
    grad_norm = apply_gradients(G, "G", recipe, update, frozen_blocks)
    return {"g_loss": torch.stack(losses).mean(), "g_grad_norm": grad_norm}


def apply_gradients(engine: Engine, name: str, recipe: Recipe, update: bool, frozen_blocks: int) -> Tensor:
    """Apply Adam's update and the spectral clamp unless the network is frozen; return the gradient norm."""
    with restored_on_exit(engine, list(first_blocks(engine.module, frozen_blocks).values())):
        norm = engine.step(update)
        if update and recipe.spectral and recipe.spectral.clamp:
            with engine.changing_weights() as network:
                recipe.spectral.clamp_(network, name, engine.guard.veto)
    return norm


def marked_last(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[bool, tuple[Tensor, Tensor]]]:
    """Pair each of `count` micro-batches with True for the last one, False for the others."""
    for k, batch in enumerate(batches):
        yield k == count - 1, batch
