"""Opening what a run is to begin as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from biggan.config.preset import resolve
from biggan.errors import CheckpointError, InputError
from biggan.generation.architecture_json import from_json
from biggan.generation.export_reader import DISCRIMINATOR, is_export, read_discriminator, read_export, read_information
from biggan.generation.load import find_checkpoint, open_checkpoint
from biggan.models.architecture import Architecture, configured_architecture
from biggan.models.networks import Discriminator, Generator
from biggan.runs import checkpoint, run_folder
from biggan.runs.ring import steps_on_disk

KEY = "init.from"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks of an earlier run, in this host's memory."""

    origin: str
    """`runs/a@1200`, or an export's folder."""
    networks: Architecture
    classes: tuple[str, ...]
    generator: Generator
    """The averaged one."""
    discriminator: Discriminator | None
    """None: an export without it."""


def locate(path: str, on_damaged: Callable[[str], object]) -> Path:
    """The export or checkpoint that `path` names, as `biggan sample` reads it.

    `on_damaged(message)` is called for each newer checkpoint of a run that is not whole. Raises InputError.
    """
    if is_export(Path(path)):
        return Path(path)
    try:
        return find_checkpoint(path, on_damaged)
    except InputError as error:
        if not run_folder.has_checkpoints(Path(path)):
            raise InputError(f"{KEY}: {error}") from None
    root = run_folder.checkpoints(Path(path))
    newest = root / checkpoint.folder_name(steps_on_disk(root)[-1])
    raise InputError(
        f"{KEY}: {path}: no checkpoint of this run is whole; {newest}: {checkpoint.find_corruption(newest)}; "
        "restore it, or name another source"
    )


def open_trained(folder: Path) -> TrainedNetworks:
    """The networks of an export or a checkpoint; raises InputError, one line, if any of it is missing or damaged."""
    try:
        return _exported(folder) if is_export(folder) else _checkpointed(folder)
    except (InputError, CheckpointError) as error:
        raise InputError(f"{KEY}: {error}") from None


def _exported(folder: Path) -> TrainedNetworks:
    source, information = read_export(folder, CPU), read_information(folder)
    D = read_discriminator(folder, CPU) if DISCRIMINATOR in information["files"] else None
    return TrainedNetworks(source.origin, from_json(information["architecture"]), source.classes, source.generator, D)


def _checkpointed(folder: Path) -> TrainedNetworks:
    source = open_checkpoint(folder, CPU)
    networks = configured_architecture(resolve(folder / run_folder.CONFIG).model)
    D = networks.discriminator()
    D.load_state_dict(checkpoint.read(folder, only={"discriminator"}).tensors["discriminator"])
    return TrainedNetworks(source.origin, networks, source.classes, source.generator, D)
