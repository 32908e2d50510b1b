"""Everything the training loop consumes: loader, draws, recipe."""

from __future__ import annotations

from dataclasses import dataclass

from biggan.data.loader import Loader
from biggan.draws import Draws
from biggan.training.turn import Recipe


@dataclass(frozen=True)
class Trajectory:
    """Real batches, draws and the recipe of every step. A rollback continues on another trajectory."""

    loader: Loader
    draws: Draws
    recipe: Recipe
