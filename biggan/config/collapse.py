"""The `collapse` section: detection and the reaction to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from biggan.config.sections import NonNegative, Positive, Section


class CollapseConfig(Section):
    """Collapse detection and the reaction to it. docs/collapse.md gives the reasons for these defaults."""

    on_collapse: Literal["continue", "halt", "rollback"] = "halt"
    """Reaction to the verdict `collapsing` or `collapsed`: continue, stop with exit code 7, or go back to the last good
    checkpoint, take the values of `rollback` and continue on a new training trajectory. Earlier checkpoints are pinned
    in each case. A run with non-finite gradients never continues."""
    max_rollbacks: NonNegative = 3
    """Maximum number of rollbacks; the next collapse stops the run."""
    spectrum_every_steps: Positive = 50
    """Measure the largest singular values of every weight every `n` generator steps."""
    quality_every_steps: Positive = 250
    """Measure the signals that need images (diversity of a fixed batch, memorisation) every `n` generator steps."""
    top_singular_values: Annotated[int, Field(ge=2, le=16)] = 3
    """Number of singular values measured per weight, 2 to 16."""
    minimum_observations: Annotated[int, Field(ge=16)] = 30
    """Minimum number of earlier changes of a signal that a change is compared with, at least 16. A signal with a
    shorter history does not count."""
    patience_observations: Positive = 2
    """Number of newest observations that must all depart."""
    deviations: Annotated[float, Field(gt=0)] = 4.0
    """Threshold of a departure: the change of a signal, in robust standard deviations of its earlier changes."""
    agreeing_signals: Positive = 2
    """Number of signal families that must depart together for `collapsing`; fewer give a warning."""
