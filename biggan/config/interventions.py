"""The interventions in force after a number of rollbacks, and checks of them.

docs/interventions.md describes each intervention and what the literature reports of it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection
from fnmatch import fnmatchcase

from biggan.config import Config
from biggan.config.collapse import InterventionConfig
from biggan.errors import InputError

NEUTRAL = InterventionConfig()


def effective(config: Config, rollbacks: int) -> InterventionConfig:
    """Return the interventions in force after `rollbacks` rollbacks; after none, `intervention` itself.

    After a rollback, each key of `rollback` that is not neutral replaces the key of `intervention`. The factors of
    learning rates are `intervention`'s times `rollback`'s to the power of `rollbacks`.
    """
    initial, rollback = config.intervention, config.rollback
    if not rollbacks:
        return initial
    changes = {name: value for name, value in rollback if value != getattr(NEUTRAL, name)}
    changes["g_lr_factor"] = initial.g_lr_factor * rollback.g_lr_factor**rollbacks
    changes["d_lr_factor"] = initial.d_lr_factor * rollback.d_lr_factor**rollbacks
    # A freeze counts from the start of its intervention; `intervention`'s freeze ended before the rollback.
    changes["freeze_g_steps"], changes["freeze_d_steps"] = rollback.freeze_g_steps, rollback.freeze_d_steps
    return initial.model_copy(update=changes)


def warnings(config: Config) -> list[str]:
    """Return one line for each change of learning rates that collapsed immediately in the paper."""
    lines = learning_rate_warnings("intervention.", config.intervention.g_lr_factor, config.intervention.d_lr_factor)
    if config.collapse.on_collapse == "rollback":
        lines += learning_rate_warnings("rollback.", config.rollback.g_lr_factor, config.rollback.d_lr_factor)
    return lines


def learning_rate_warnings(section: str, g_factor: float, d_factor: float) -> list[str]:
    """Return the warnings for these factors of learning rates; `section` is the prefix of the keys, with its dot.

    They apply to training that resumes from shortly before a collapse.
    """
    lines = []
    for key, factor in (("g_lr_factor", g_factor), ("d_lr_factor", d_factor)):
        if factor > 1:
            lines.append(
                f"{section}{key}: {factor} raises a learning rate; in the paper, runs restarted before a collapse with "
                f"a higher rate collapsed immediately, even with a factor of 2"
            )
    if d_factor < 1 <= g_factor:
        lines.append(
            f"{section}d_lr_factor: {d_factor} lowers only the discriminator's learning rate; in the paper, runs "
            f"restarted before a collapse with this change collapsed immediately; lower {section}g_lr_factor instead"
        )
    return lines


def check_layers(config: Config, layers: Collection[str]) -> None:
    """Raise InputError if a pattern of `spectral_layers` matches none of the networks' `layers`."""
    for section, intervention in (("intervention", config.intervention), ("rollback", config.rollback)):
        for pattern in intervention.spectral_layers:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                near = difflib.get_close_matches(pattern, layers, n=1, cutoff=0.0)
                raise InputError(
                    f"{section}.spectral_layers: {pattern} matches no weight of these networks; nearest: {near[0]}"
                )


def trajectory_seed(seed: int, rollbacks: int) -> int:
    """Return the seed after `rollbacks` rollbacks: another one each time, so that the collapse is not repeated."""
    if not rollbacks:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {rollbacks}".encode(), digest_size=4).digest(), "big")
