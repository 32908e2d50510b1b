"""Read state dicts with biggan's own tensor names. A config describes their networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from biggan.config.preset import resolve
from biggan.errors import InputError
from biggan.importing.imported_checkpoint import ImportedCheckpoint, parse_step
from biggan.importing.pickles import SUFFIXES, read_file, state_dict_of
from biggan.models.architecture import configured_architecture

FORMAT = "state dicts with biggan's tensor names"
EMA_GENERATORS = ("ema", "G_ema")
GENERATORS = ("generator", "G", "state_dict", "model")
DISCRIMINATORS = ("discriminator", "D")


def read(file: Path, config: Path, overrides: Sequence[str]) -> ImportedCheckpoint:
    """Read a generator's state dict, or a dictionary with EMA generator, generator, discriminator and step.

    Raises InputError, one line, if there is no generator.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: unknown kind of file; give one that ends in {', '.join(SUFFIXES)}")
    resolved = resolve(config, overrides)
    contents = read_file(file)
    if not isinstance(contents, Mapping) or not contents:
        raise InputError(f"{file}: {type(contents).__name__}, not a state dict; save tensors by name")
    if not any(name in contents for name in (*EMA_GENERATORS, *GENERATORS, *DISCRIMINATORS)) and any(
        isinstance(value, Tensor) for value in contents.values()
    ):
        contents = {"generator": contents}
    kinds = (EMA_GENERATORS, GENERATORS, DISCRIMINATORS)
    names = {kind: next((name for name in kind if name in contents), None) for kind in kinds}
    ema, generator, discriminator = (
        None if name is None else state_dict_of(contents[name], f"{file}: {name}") for name in names.values()
    )
    if ema is None and generator is None:
        raise InputError(f"{file}: no generator; name it one of {', '.join((*GENERATORS, *EMA_GENERATORS))}")
    step = parse_step(contents.get("step"), f"{file}: step")
    images_per_step = resolved.training.d_steps * resolved.training.batch_size
    unused = [str(key) for key in contents if key not in (*names.values(), "step")]
    notes = ["no discriminator: it can be exported, but not trained"] if discriminator is None else []
    if discriminator is not None:
        notes.append("no optimizers: Adam starts from zero")
    return ImportedCheckpoint(
        format=FORMAT,
        networks=configured_architecture(resolved.model),
        ema=ema or generator or {},
        generator=None if discriminator is None else generator or ema,
        discriminator=discriminator,
        config=resolved,
        step=step,
        images_seen=None if step is None else step * images_per_step,
        notes=(*notes, *(f"ignored: {key}" for key in unused)),
    )
