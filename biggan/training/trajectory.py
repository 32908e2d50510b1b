"""Everything the training loop consumes: loader, latents, recipe."""

from __future__ import annotations

import hashlib
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


def trajectory_seed(seed: int, rollbacks: int) -> int:
    """Return the seed after `rollbacks` rollbacks: another one each time, so that the collapse is not repeated."""
    if not rollbacks:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {rollbacks}".encode(), digest_size=4).digest(), "big")
