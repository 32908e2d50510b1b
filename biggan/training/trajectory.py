"""Where a run goes from a state on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from biggan.data.loader import Loader
from biggan.training.latents import Latents
from biggan.training.step import Recipe


@dataclass(frozen=True)
class Trajectory:
    """What each step is given: real batches, latents and the recipe. A rollback takes another course."""

    loader: Loader
    latents: Latents
    recipe: Recipe


def trajectory_seed(seed: int, rollbacks: int) -> int:
    """The run's seed at first; another for each rollback, so that the path that collapsed is not walked again."""
    if not rollbacks:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {rollbacks}".encode(), digest_size=4).digest(), "big")
