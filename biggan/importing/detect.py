"""Which format a source has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from biggan.errors import InputError, nearest_path
from biggan.importing import deepmind, plain, reference
from biggan.importing.imported_checkpoint import ImportedCheckpoint

KNOWN = (
    f"known are the reference code's (G.pth, D.pth, G_ema.pth), the released generators' ({deepmind.CONFIG} and "
    f"{deepmind.TENSORS}), and a file of tensors with --config"
)


def read(
    source: Path, suffix: str, config: Path | None, overrides: Sequence[str], places: Sequence[str]
) -> ImportedCheckpoint:
    """What is in `source`; raises InputError, one line, if it is of no known format, or not as that format has it.

    `suffix` and `config` are the flags of those names; `overrides` are `key.sub=value`, and so are `places`, which say
    where the run and its data are.
    """
    if not source.exists():
        raise InputError(f"SOURCE: {source}: no such file or folder{nearest_path(source, source.parent.glob('*'))}")
    for key in (place.partition("=")[0] for place in places):
        if any(override.startswith(f"{key}=") for override in overrides):
            raise InputError(f"{key}: {'OUT' if key == 'run.dir' else '--data'} says it already; leave it out")
    if config is not None:
        if not source.is_file():
            raise InputError(f"--config: is of a file of tensors, and {source} is a folder; leave it out")
        if suffix:
            raise InputError("--suffix: is of the reference code's folders, not of a file of tensors; leave it out")
        return plain.read(source, config, [*overrides, *places])
    if source.is_file():
        raise InputError(f"SOURCE: {source}: a file says nothing of its networks; give --config CONFIG.yaml too")
    if (source / deepmind.TENSORS).is_file():
        for flag in (*(["--suffix"] if suffix else []), *overrides):
            raise InputError(f"{flag}: means nothing to {deepmind.FORMAT}, which has no settings; leave it out")
        return deepmind.read(source)
    there = reference.suffixes(source)
    if suffix in there:
        return reference.read(source, suffix, [*overrides, *places])
    if there:
        names = ", ".join(f"--suffix {name}" if name else "none" for name in there)
        raise InputError(f"--suffix: {source} has no networks with {f'suffix {suffix}' if suffix else 'none'}: {names}")
    raise InputError(f"SOURCE: {source}: no layout that we know; {KNOWN}")
