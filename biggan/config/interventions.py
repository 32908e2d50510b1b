"""Interventions: other values for existing keys, in force from the start of a run or from a rollback on.

docs/interventions.md describes each intervention and what the literature reports of it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, RootModel, model_validator

from biggan.config.renamed import renamed
from biggan.config.schedule import Schedule, values
from biggan.errors import InputError

if TYPE_CHECKING:
    from biggan.config import Config

CHANGEABLE_KEYS = (
    "objective.",
    "extension.",
    "optimizer.",
    "ema.decay",
    "training.d_steps",
    "training.freeze_d_steps",
    "training.freeze_g_steps",
)
"""Keys, or prefixes of keys, whose values may change during a run: nothing that was built or saved depends on them."""
FREEZES = ("freeze_d_steps", "freeze_g_steps")
FACTOR = re.compile(r"x(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")


SECTION = "intervention"
SHAPES = {"linear", "cosine", "step"}
WHOLE = ("terms", "weight_terms")
"""Keys of `extension` whose value is a mapping, which a change replaces as a whole."""


class Changes(RootModel[dict[str, Any]]):
    """Other values by dotted key: `{optimizer.g_lr: x0.5, objective.r1.gamma: 1.0}`, or nested in the same way.

    `x0.5` multiplies the value in force: a number, a schedule, or every weight of an extension's terms. The keys and
    values are checked with the whole config.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, tree: Any) -> Any:
        return dict(_dotted(tree, "")) if isinstance(tree, dict) else tree


class RollbackChanges(Changes):
    """The changes of a rollback. Half of G's rate is one of them unless `optimizer.g_lr` is given."""

    @model_validator(mode="before")
    @classmethod
    def _add_default(cls, tree: Any) -> Any:
        return {**DEFAULT_ROLLBACK, **dict(_dotted(tree, ""))} if isinstance(tree, dict) else tree


DEFAULT_ROLLBACK = {"optimizer.g_lr": "x0.5"}
"""In the paper, no other change of learning rates than a lower rate of G delayed collapse."""


def _dotted(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Return the leaves of `tree` by dotted key. Schedules and terms by import path are leaves."""
    leaves: list[tuple[str, Any]] = []
    for name, value in tree.items():
        leaf = name.rpartition(".")[2] in WHOLE or not isinstance(value, dict) or bool(SHAPES & value.keys())
        leaves += [(f"{prefix}{name}", value)] if leaf else _dotted(value, f"{prefix}{name}.")
    return leaves


def in_force(config: Config, rollbacks: int = 0) -> Config:
    """Return the config with the values in force after `rollbacks` rollbacks, and with no further changes.

    `intervention` holds from the start. `rollback` is applied on top, once for each rollback: a factor multiplies
    again. A freeze counts from the start of its own change, so a rollback ends an earlier one.

    Raises InputError if a change names no key that may change, and ValidationError if a value is not valid.
    """
    tree = json.loads(config.model_dump_json())
    _apply(tree, tree.pop("intervention"), "intervention")
    changes = tree.pop("rollback")
    for _ in range(rollbacks):
        tree["training"].update(dict.fromkeys(FREEZES, 0))
        _apply(tree, changes, "rollback")
    return type(config).model_validate_json(json.dumps(tree))


def _apply(tree: dict[str, Any], changes: dict[str, Any], section: str) -> None:
    """Write the changes of one section into the config `tree`; raise InputError that names a wrong key."""
    for key, value in changes.items():
        *path, leaf = key.split(".")
        node: Any = tree
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            unknown = f"{section}.{key}: no such key; use a key of the config, as in {section}.optimizer.g_lr"
            raise InputError(renamed(f"{section}.{key}") or unknown)
        if not key.startswith(CHANGEABLE_KEYS):
            raise InputError(
                f"{section}.{key}: cannot change during a run; keys that can: {', '.join(CHANGEABLE_KEYS)}"
            )
        factor = FACTOR.fullmatch(value) if isinstance(value, str) else None
        node[leaf] = value if factor is None else _scaled(node[leaf], float(factor[1]), f"{section}.{key}")


def _scaled(value: Any, factor: float, key: str) -> Any:
    """Return a number, a schedule, or the weights of terms by import path, as JSON, multiplied by `factor`."""
    if isinstance(value, dict) and SHAPES & value.keys():
        return Schedule.model_validate_json(json.dumps(value)).times(factor).model_dump()
    if isinstance(value, dict) and all(":" in path for path in value):
        return {path: _scaled(weight, factor, key) for path, weight in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key}: x{factor:g} multiplies a number, not {value!r:.60}; give the value itself")
    scaled = value * factor
    return int(scaled) if isinstance(value, int) and scaled.is_integer() else scaled


def is_factor(override: str) -> bool:
    """Return True for an override `KEY=x0.5` of a key that may change during a run."""
    key, _, value = override.partition("=")
    return key.startswith(CHANGEABLE_KEYS) and FACTOR.fullmatch(value) is not None


def warnings(config: Config) -> list[str]:
    """Return one line for each change of learning rates that collapsed immediately in the paper."""
    lines = learning_rate_warnings("intervention", config, in_force(config))
    if config.collapse.on_collapse == "rollback":
        lines += learning_rate_warnings("rollback", in_force(config), in_force(config, 1))
    return lines


def learning_rate_warnings(section: str, before: Config, after: Config) -> list[str]:
    """Return the warnings for the change of learning rates from one config to the other, made by `section`.

    They apply to training that resumes from shortly before a collapse.
    """
    factors = {key: _factor(getattr(before.optimizer, key), getattr(after.optimizer, key)) for key in ("g_lr", "d_lr")}
    lines = [
        f"{section}.optimizer.{key}: {factor:g} times the rate in force; in the paper, runs restarted before a "
        f"collapse with a higher rate collapsed immediately, even with a factor of 2"
        for key, factor in factors.items()
        if factor > 1
    ]
    if factors["d_lr"] < 1 <= factors["g_lr"]:
        lines.append(
            f"{section}.optimizer.d_lr: {factors['d_lr']:g} times the rate in force, and G's is not lowered; in the "
            f"paper, runs restarted before a collapse with this change collapsed immediately; lower "
            f"{section}.optimizer.g_lr instead"
        )
    return lines


def _factor(before: float | Schedule, after: float | Schedule) -> float:
    """Return the ratio of two rates at their largest."""
    return max(values(after)) / max(values(before)) if before != after else 1.0


def check_layers(config: Config, layers: Collection[str]) -> None:
    """Raise InputError if a pattern of `objective.spectral.layers` matches none of the networks' `layers`."""
    for prefix, values_in_force in (("", in_force(config)), ("rollback.", in_force(config, 1))):
        for pattern in values_in_force.objective.spectral.layers:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                near = difflib.get_close_matches(pattern, layers, n=1, cutoff=0.0)
                raise InputError(
                    f"{prefix}objective.spectral.layers: {pattern} matches no weight of these networks; "
                    f"nearest: {near[0]}"
                )


def trajectory_seed(seed: int, rollbacks: int) -> int:
    """Return the seed after `rollbacks` rollbacks: another one each time, so that the collapse is not repeated."""
    if not rollbacks:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {rollbacks}".encode(), digest_size=4).digest(), "big")
