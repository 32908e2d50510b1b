"""Keys of version 0.1 and what they are now."""

from __future__ import annotations

from typing import Any

CHANGES = ("intervention", "rollback")
"""Sections of other values for existing keys."""
CHANGED_KEYS = {
    "g_lr_factor": ("optimizer.g_lr", 1.0),
    "d_lr_factor": ("optimizer.d_lr", 1.0),
    "d_steps": ("training.d_steps", 0),
    "r1_gamma": ("objective.r1.gamma", 0.0),
    "r1_every_d_steps": ("objective.r1.every_d_steps", 1),
    "orthogonal": ("objective.orthogonal", 0.0),
    "spectral_penalty": ("objective.spectral.penalty", 0.0),
    "spectral_clamp": ("objective.spectral.clamp", False),
    "spectral_target": ("objective.spectral.target", 0.0),
    "spectral_ratio": ("objective.spectral.ratio", 2.0),
    "spectral_layers": ("objective.spectral.layers", ["G.linear"]),
    "freeze_g_steps": ("training.freeze_g_steps", 0),
    "freeze_d_steps": ("training.freeze_d_steps", 0),
}
"""Keys of `intervention` and `rollback`: the key whose value each one changes, and the value that changed nothing."""
RENAMED = {
    "training.loss": "objective.loss",
    "regularization.orthogonal": "objective.orthogonal",
    **{
        f"{section}.{old}": f"{section}.{new}{'=xFACTOR' if old.endswith('_factor') else ''}"
        for section in CHANGES
        for old, (new, _) in CHANGED_KEYS.items()
    },
}


def renamed(key: str) -> str | None:
    """Return a message for a key or section of version 0.1; None for other keys."""
    now = RENAMED["regularization.orthogonal"] if key == "regularization" else RENAMED.get(key)
    return None if now is None else f"{key}: is now {now} (version 0.2); change it"


def upgraded(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sections of a `config.yaml` that version 0.1 saved by today's keys; any other tree as it is.

    Only a saved config has all keys of version 0.1. A preset with one of them is refused, with its name of today.
    """
    training, regularization = tree.get("training", {}), tree.get("regularization", {})
    is_saved = all(CHANGED_KEYS.keys() == tree.get(section, {}).keys() for section in CHANGES)
    if not (is_saved and "loss" in training and regularization.keys() == {"orthogonal"}):
        return tree
    kept = {name: keys for name, keys in tree.items() if name != "regularization"}
    return kept | {
        "training": {key: value for key, value in training.items() if key != "loss"},
        "objective": {"loss": training["loss"], **regularization},
        **{section: _changes(section, tree[section], regularization["orthogonal"]) for section in CHANGES},
    }


def _changes(section: str, saved: dict[str, Any], orthogonal: Any) -> dict[str, Any]:
    """Return a section of changes by today's keys, without those that changed nothing."""
    unchanged = {name: value for name, (_, value) in CHANGED_KEYS.items()}
    if section == "rollback":
        unchanged["g_lr_factor"] = 0.5  # a default then and now
    changes = {}
    for name, value in saved.items():
        if value != unchanged[name]:
            changes[CHANGED_KEYS[name][0]] = f"x{value!r}" if name.endswith("_factor") else value
    if all(isinstance(value, int | float) for value in (changes.get("objective.orthogonal"), orthogonal)):
        changes["objective.orthogonal"] += orthogonal  # it was added to the run's
    return changes
