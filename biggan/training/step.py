"""One training step: the algorithm of Brock et al. 2018 (appendix C), on one screen.

The generator runs in training mode for the discriminator's fakes too, without gradients: each such forward
moves its BatchNorm statistics and advances its power iteration, as in the published code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from biggan.distributed.engine import Engine, frozen
from biggan.objectives.losses import d_hinge, g_hinge
from biggan.objectives.regularizers import orthogonal_penalty, orthogonal_weights
from biggan.training.ema import Ema
from biggan.training.latents import Latents

Batches = Iterator[tuple[Tensor, Tensor]]
Stats = dict[str, Tensor]


@dataclass
class Gan:
    """The two networks with what trains each, and the averaged generator."""

    generator: Engine
    discriminator: Engine
    ema: Ema


@dataclass(frozen=True)
class Recipe:
    """What the step does, besides what the networks are."""

    d_steps: int
    accumulation: int
    orthogonal: float
    autocast: torch.autocast


def train_step(gan: Gan, step: int, real: Batches, latents: Latents, recipe: Recipe) -> Stats:
    """`d_steps` discriminator updates, one generator update, one EMA update; scalars, still on the device.

    `real` yields (images float [n, 3, R, R] in [-1, 1], labels int64 [n]), a micro-batch at a time.
    """
    for use in range(recipe.d_steps):
        d_stats = update_discriminator(gan, real, latents(step, use), recipe)
    g_stats = update_generator(gan, latents(step, recipe.d_steps), recipe)
    gan.ema.update(gan.generator.module, step, gan.generator.guard.veto)
    return d_stats | g_stats


def update_discriminator(gan: Gan, real: Batches, latents: Batches, recipe: Recipe) -> Stats:
    """Hinge loss on fake and real images in one forward pass, so that D's power iteration advances once."""
    seen = []
    for last, (z, y_fake) in marked_last(latents, recipe.accumulation):
        x_real, y_real = next(real)
        with gan.discriminator.micro_step(last):
            with recipe.autocast:
                with torch.no_grad():
                    x_fake = gan.generator.module(z, y_fake)
                logits = gan.discriminator(torch.cat([x_fake.float(), x_real]), torch.cat([y_fake, y_real]))
            fake_logits, real_logits = logits.float().split([len(y_fake), len(y_real)])
            loss_real, loss_fake = d_hinge(real_logits, fake_logits)
            gan.discriminator.backward((loss_real + loss_fake) / recipe.accumulation)
        seen.append(torch.stack([loss_real, loss_fake, real_logits.mean(), fake_logits.mean()]).detach())
    loss_real, loss_fake, logit_real, logit_fake = torch.stack(seen).mean(0)
    return {
        "d_loss_real": loss_real,
        "d_loss_fake": loss_fake,
        "d_logit_real": logit_real,
        "d_logit_fake": logit_fake,
        "d_grad_norm": gan.discriminator.step(),
    }


def update_generator(gan: Gan, latents: Batches, recipe: Recipe) -> Stats:
    """The generator's hinge loss through a frozen D, plus orthogonal regularization once per update."""
    losses = []
    for last, (z, y) in marked_last(latents, recipe.accumulation):
        with gan.generator.micro_step(last), frozen(gan.discriminator.module) as D:
            with recipe.autocast:
                logits = D(gan.generator(z, y), y)
            loss = g_hinge(logits.float())
            losses.append(loss.detach())
            loss = loss / recipe.accumulation
            if recipe.orthogonal and last:
                weights = orthogonal_weights(gan.generator.module)
                loss = loss + recipe.orthogonal * orthogonal_penalty(weights)
            gan.generator.backward(loss)
    return {"g_loss": torch.stack(losses).mean(), "g_grad_norm": gan.generator.step()}


def marked_last(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[bool, tuple[Tensor, Tensor]]]:
    """Pair each of `count` micro-batches with whether it is the last."""
    for k, batch in enumerate(batches):
        yield k == count - 1, batch
