"""Everything the training loop consumes: loader, latents, recipe."""

from __future__ import annotations

from dataclasses import dataclass

from biggan.data.loader import Loader
from biggan.training.latents import Latents
from biggan.training.step import Recipe


@dataclass(frozen=True)
class Trajectory:
    """Real batches, latents and the recipe of every step. A rollback continues on another trajectory."""

    loader: Loader
    latents: Latents
    recipe: Recipe
