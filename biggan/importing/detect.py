"""Detect the format of a source and read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from biggan.errors import InputError, nearest_path
from biggan.importing import deepmind, plain_state_dict, reference
from biggan.importing.imported_checkpoint import ImportedCheckpoint
from biggan.importing.pickles import SUFFIXES, has_checksums

KNOWN = (
    f"give a folder of the reference code (G.pth, D.pth, G_ema.pth), a folder of a released generator "
    f"({deepmind.CONFIG} and {deepmind.TENSORS}), or a file of tensors with --config"
)


def read(
    source: Path, suffix: str, config: Path | None, overrides: Sequence[str], locations: Sequence[str]
) -> ImportedCheckpoint:
    """Read `source` as `read_format` does, and note files that have no checksums."""
    imported = read_format(source, suffix, config, overrides, locations)
    files = [source] if source.is_file() else sorted(source.iterdir())
    unchecked = [file.name for file in files if file.suffix in SUFFIXES and file.is_file() and not has_checksums(file)]
    if not unchecked:
        return imported
    note = f"{', '.join(unchecked)}: no checksums inside (older format of torch, or safetensors): damage goes unnoticed"
    return replace(imported, notes=(*imported.notes, note))


def read_format(
    source: Path, suffix: str, config: Path | None, overrides: Sequence[str], locations: Sequence[str]
) -> ImportedCheckpoint:
    """Read `source`.

    `suffix` and `config` are the flags of these names. `overrides` and `locations` are `key.sub=value`; `locations`
    set the folders of the run and of its data. Raises InputError, one line, if the format is unknown or the source
    does not match its format.
    """
    if not source.exists():
        raise InputError(f"SOURCE: {source}: no such file or folder{nearest_path(source, source.parent.glob('*'))}")
    for key in (location.partition("=")[0] for location in locations):
        if any(override.startswith(f"{key}=") for override in overrides):
            raise InputError(f"{key}: already set by {'OUT' if key == 'run.dir' else '--data'}; remove it")
    if config is not None:
        if not source.is_file():
            raise InputError(f"--config: only for a file of tensors, but {source} is a folder; remove it")
        if suffix:
            raise InputError("--suffix: only for folders of the reference code, not for a file; remove it")
        return plain_state_dict.read(source, config, [*overrides, *locations])
    if source.is_file():
        raise InputError(f"SOURCE: {source}: a file does not describe its networks; add --config CONFIG.yaml")
    if (source / deepmind.TENSORS).is_file():
        for flag in (*(["--suffix"] if suffix else []), *overrides):
            raise InputError(f"{flag}: has no effect on {deepmind.FORMAT}; remove it")
        return deepmind.read(source)
    available = reference.suffixes(source)
    if suffix in available:
        return reference.read(source, suffix, [*overrides, *locations])
    if available:
        choices = ", ".join(f"--suffix {name}" if name else "no --suffix" for name in available)
        asked = f"--suffix {suffix}" if suffix else "no --suffix"
        raise InputError(f"--suffix: {source} has no networks for {asked}; use {choices}")
    raise InputError(f"SOURCE: {source}: unknown layout; {KNOWN}")
