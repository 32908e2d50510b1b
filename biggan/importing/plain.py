"""State dicts under our own names, with a config that says what networks they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from biggan.config.preset import resolve
from biggan.errors import InputError
from biggan.importing.imported_checkpoint import ImportedCheckpoint, count_of_steps
from biggan.importing.pickles import SUFFIXES, read_file, state_dict_of
from biggan.models.architecture import configured_architecture

FORMAT = "state dicts under our names"
AVERAGES = ("ema", "G_ema")
GENERATORS = ("generator", "G", "state_dict", "model")
DISCRIMINATORS = ("discriminator", "D")


def read(file: Path, config: Path, overrides: Sequence[str]) -> ImportedCheckpoint:
    """A generator's state dict, or a dictionary of several: its average, itself, the discriminator, the step.

    Raises InputError, one line, if there is no generator among them.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: no kind of file that we read; give one that ends in {', '.join(SUFFIXES)}")
    resolved = resolve(config, overrides)
    found = read_file(file)
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{file}: no state dict but {type(found).__name__}; give tensors by name")
    if not any(name in found for name in (*AVERAGES, *GENERATORS, *DISCRIMINATORS)) and any(
        isinstance(value, Tensor) for value in found.values()
    ):
        found = {"generator": found}
    names = {kind: next((n for n in kind if n in found), None) for kind in (AVERAGES, GENERATORS, DISCRIMINATORS)}
    average, generator, discriminator = (
        None if name is None else state_dict_of(found[name], f"{file}: {name}") for name in names.values()
    )
    if average is None and generator is None:
        raise InputError(f"{file}: no generator; looked for {', '.join((*GENERATORS, *AVERAGES))}")
    step = count_of_steps(found.get("step"), f"{file}: step")
    images_a_step = resolved.training.d_steps * resolved.training.batch_size
    unused = [str(key) for key in found if key not in (*names.values(), "step")]
    notes = ["no discriminator: a generator alone, nothing to train on"] if discriminator is None else []
    if discriminator is not None:
        notes.append("no optimizers: Adam starts anew")
    return ImportedCheckpoint(
        format=FORMAT,
        networks=configured_architecture(resolved.model),
        ema=average or generator or {},
        generator=None if discriminator is None else generator or average,
        discriminator=discriminator,
        config=resolved,
        step=step,
        images_seen=None if step is None else step * images_a_step,
        notes=(*notes, *(f"left out: {key}" for key in unused)),
    )
