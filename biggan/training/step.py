"""One training step: the algorithm of Brock et al. 2018 (appendix C).

The step names no technique. A `Recipe` gives a `Turn` for each update: its losses, its terms, the view of the images
that D is shown, and the network's update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from biggan.distributed.engine import frozen
from biggan.draws import Draw
from biggan.gan import Gan, Stats
from biggan.objectives.passes import Samples, mapped
from biggan.training.turn import Recipe, Turn

Batches = Iterator[tuple[Tensor, Tensor]]
"""Real micro-batches: images float [n, C, R, R] in [-1, 1], and labels int64 [n]."""
DrawsOfUpdate = Callable[[int, int], Iterable[Draw]]
"""(step, update index) -> the draw of each micro-batch; `Draws` is one."""


def train_step(gan: Gan, step: int, real: Batches, draws: DrawsOfUpdate, recipe: Recipe) -> Stats:
    """Update D `d_steps` times, then G and the EMA once; return scalars on the device, which may be averaged.

    `real` yields `recipe.real_batches` micro-batches. A frozen network still computes its loss and gradients, but
    neither its weights and Adam state nor, for G, the EMA change.
    """
    turn = recipe.g_turn(step)
    d_stats = [update_discriminator(gan, real, draws(step, k), recipe.d_turn(step, k)) for k in range(recipe.d_steps)]
    g_stats = update_generator(gan, real if recipe.generator_needs_real else None, draws(step, recipe.d_steps), turn)
    if turn.update:
        gan.ema.update(gan.generator.module, step, gan.generator.guard.veto)
    return means(d_stats) | g_stats


def update_discriminator(gan: Gan, real: Batches, draws: Iterable[Draw], turn: Turn) -> Stats:
    """Update D once, on the loss of fake and real images in one forward pass."""
    D, stats = gan.discriminator, []
    for draw in draws:
        x_real, y_real = next(real)
        y = y_real if turn.paired else draw.y
        with D.micro_step(draw.last):
            with turn.forward():
                # The bare module, not the engine: this forward has no backward, and must not prepare a reduction.
                # In training mode, as published: it moves BatchNorm statistics and advances the power iteration.
                with torch.no_grad():
                    x_fake = mapped(Tensor.float, gan.generator.module(draw.z, y))
                # One forward for both, so that D's power iteration advances once per micro-batch.
                judged = turn.judge(D, Samples(x_fake, y), Samples(x_real, y_real), draw)
            losses, terms = turn.adversarial.discriminator(judged), turn.values(judged)
            D.backward(turn.total(losses, terms, D.module, draw.last))
        stats.append(turn.statistics("d", losses, terms, judged))
    return means(stats) | {"d_grad_norm": turn.apply(D)}


def update_generator(gan: Gan, real: Batches | None, draws: Iterable[Draw], turn: Turn) -> Stats:
    """Update G once: its loss through a frozen D, beside real images if its objective compares them."""
    G, stats = gan.generator, []
    for draw in draws:
        x_real, y_real = (None, draw.y) if real is None else next(real)
        y = y_real if turn.paired else draw.y
        # D is frozen, so gradients pass through it without being accumulated in it for its next update.
        with G.micro_step(draw.last), frozen(gan.discriminator.module) as D:
            with turn.forward():
                shown = None if x_real is None else Samples(x_real, y_real)
                judged = turn.judge(D, Samples(G(draw.z, y), y), shown, draw)
            losses, terms = turn.adversarial.generator(judged), turn.values(judged)
            G.backward(turn.total(losses, terms, G.module, draw.last))
        stats.append(turn.statistics("g", losses, terms))
    return means(stats) | {"g_grad_norm": turn.apply(G)}


def means(rows: list[Stats]) -> Stats:
    """Return the mean of each statistic over the rows that have it: a term that is not always due is not in all."""
    if len(rows) == 1:
        return rows[0]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    columns = torch.stack([torch.stack([row[name] for name in shared]) for row in rows]).mean(0)
    others = {name: [row[name] for row in rows if name in row] for row in rows for name in row if name not in shared}
    return dict(zip(shared, columns, strict=True)) | {name: torch.stack(v).mean() for name, v in others.items()}
