"""Keys of version 0.1 and what they are now."""

from __future__ import annotations

CHANGES = ("intervention", "rollback")
"""Sections of other values for existing keys."""
RENAMED = {
    "training.loss": "objective.loss",
    "regularization.orthogonal": "objective.orthogonal",
    **{
        f"{section}.{old}": f"{section}.{new}"
        for section in CHANGES
        for old, new in (
            ("g_lr_factor", "optimizer.g_lr=xFACTOR"),
            ("d_lr_factor", "optimizer.d_lr=xFACTOR"),
            ("d_steps", "training.d_steps"),
            ("r1_gamma", "objective.r1.gamma"),
            ("r1_every_d_steps", "objective.r1.every_d_steps"),
            ("orthogonal", "objective.orthogonal"),
            ("spectral_penalty", "objective.spectral.penalty"),
            ("spectral_clamp", "objective.spectral.clamp"),
            ("spectral_target", "objective.spectral.target"),
            ("spectral_ratio", "objective.spectral.ratio"),
            ("spectral_layers", "objective.spectral.layers"),
            ("freeze_g_steps", "training.freeze_g_steps"),
            ("freeze_d_steps", "training.freeze_d_steps"),
        )
    },
}


def renamed(key: str) -> str | None:
    """Return a message for a key or section of version 0.1; None for other keys."""
    now = RENAMED["regularization.orthogonal"] if key == "regularization" else RENAMED.get(key)
    return None if now is None else f"{key}: is now {now} (version 0.2); change it"
