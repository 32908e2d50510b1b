"""What is done against a collapse, from the config to what is in force after so many rollbacks.

docs/interventions.md says what each does and what the literature reports of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from fnmatch import fnmatchcase

from biggan.config import Config
from biggan.config.collapse import InterventionConfig
from biggan.errors import InputError

NEUTRAL = InterventionConfig()


def effective(config: Config, rollbacks: int) -> InterventionConfig:
    """What is in force after `rollbacks` rollbacks: `intervention` itself after none.

    After that, each field of `rollback` that is not neutral stands in its place, and the factors of learning rates are
    multiplied: `intervention`'s by `rollback`'s to the power of `rollbacks`.
    """
    start, again = config.intervention, config.rollback
    if not rollbacks:
        return start
    changes = {name: value for name, value in again if value != getattr(NEUTRAL, name)}
    changes["g_lr_factor"] = start.g_lr_factor * again.g_lr_factor**rollbacks
    changes["d_lr_factor"] = start.d_lr_factor * again.d_lr_factor**rollbacks
    # A freeze counts from where the intervention began, and `intervention`'s was served before the rollback.
    changes["freeze_g_steps"], changes["freeze_d_steps"] = again.freeze_g_steps, again.freeze_d_steps
    return start.model_copy(update=changes)


def warnings(config: Config) -> list[str]:
    """A line for each change of learning rates after which the paper saw immediate collapse."""
    found = learning_rate_warnings("intervention.", config.intervention.g_lr_factor, config.intervention.d_lr_factor)
    if config.collapse.on_collapse == "rollback":
        found += learning_rate_warnings("rollback.", config.rollback.g_lr_factor, config.rollback.d_lr_factor)
    return found


def learning_rate_warnings(section: str, g_factor: float, d_factor: float) -> list[str]:
    """The same of learning rates that change by these factors, when training goes on from shortly before a collapse."""
    found = []
    for key, factor in (("g_lr_factor", g_factor), ("d_lr_factor", d_factor)):
        if factor > 1:
            found.append(
                f"{section}{key}: {factor} raises a learning rate; restarted before a collapse, that collapsed at once "
                f"in the paper, even by a factor of 2"
            )
    if d_factor < 1 <= g_factor:
        found.append(
            f"{section}d_lr_factor: {d_factor} lowers the discriminator's learning rate alone; restarted before a "
            f"collapse, that collapsed at once in the paper; lowering {section}g_lr_factor delayed it"
        )
    return found


def check_layers(config: Config, layers: Collection[str]) -> None:
    """Raise InputError if a pattern of `spectral_layers` matches none of the networks' `layers`."""
    for section, intervention in (("intervention", config.intervention), ("rollback", config.rollback)):
        for pattern in intervention.spectral_layers:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                near = difflib.get_close_matches(pattern, layers, n=1, cutoff=0.0)
                raise InputError(
                    f"{section}.spectral_layers: {pattern} matches no weight of these networks; nearest: {near[0]}"
                )
