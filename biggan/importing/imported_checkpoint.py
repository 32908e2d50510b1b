"""What an importer makes of a source, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from biggan.config import Config
from biggan.errors import InputError
from biggan.models.architecture import Architecture

State = Mapping[str, Tensor]
MOST_STEPS = 10**12


def count_of_steps(value: object, what: str) -> int | None:
    """The step that a file says, None if it says none; raises InputError, which begins with `what`, if it is none."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_STEPS:
        said = " ".join(repr(value).split())[:80]
        raise InputError(f"{what}: {said} is no count of steps; save a whole number of 0 to {MOST_STEPS:,}, or none")
    return value


@dataclass(frozen=True)
class ImportedCheckpoint:
    """Networks under our names and in our shapes, float32, with what is known of their training."""

    format: str
    """In words."""
    networks: Architecture
    ema: State
    """The averaged generator, or the only one that there is."""
    generator: State | None = None
    discriminator: State | None = None
    config: Config | None = None
    """Of the run that goes on; None of a generator that was published alone."""
    g_optimizer: State = field(default_factory=dict)
    """As `Engine.optimizer_state` has it; empty: Adam starts anew."""
    d_optimizer: State = field(default_factory=dict)
    standing: Mapping[str, State] = field(default_factory=dict)
    """Standing statistics that came with it, by `truncation_key`."""
    step: int | None = None
    """Generator steps that were done; None if nothing says."""
    images_seen: int | None = None
    """Real images that D was shown; None if nothing says."""
    notes: tuple[str, ...] = ()
    """What is missing or left out, one line each."""

    @property
    def is_run(self) -> bool:
        """Whether training can go on: both networks are there."""
        return self.generator is not None and self.discriminator is not None
