"""Opens the trained networks that `init.from` names."""

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
    """`runs/a@1200`, or the path of an export."""
    architecture: Architecture
    classes: tuple[str, ...]
    generator: Generator
    """EMA generator."""
    discriminator: Discriminator | None
    """None for an export without discriminator."""


def locate(path: str, on_corrupt: Callable[[str], object]) -> Path:
    """Return the folder of the export or checkpoint that `path` names, with the names of `biggan sample`.

    `on_corrupt(message)` is called for each newer checkpoint of a run that is corrupt. Raises InputError.
    """
    if is_export(Path(path)):
        return Path(path)
    try:
        return find_checkpoint(path, on_corrupt)
    except InputError as error:
        if not run_folder.has_checkpoints(Path(path)):
            raise InputError(f"{KEY}: {error}") from None
    root = run_folder.checkpoints(Path(path))
    newest = root / checkpoint.folder_name(steps_on_disk(root)[-1])
    raise InputError(
        f"{KEY}: {path}: this run has no complete checkpoint; {newest}: {checkpoint.find_corruption(newest)}; "
        "restore it, or name another source"
    )


def open_trained(folder: Path) -> TrainedNetworks:
    """Return the networks of an export or a checkpoint; raise InputError, one line, if a file is missing or corrupt."""
    try:
        return _open_export(folder) if is_export(folder) else _open_checkpoint(folder)
    except (InputError, CheckpointError) as error:
        raise InputError(f"{KEY}: {error}") from None


def _open_export(folder: Path) -> TrainedNetworks:
    trained, information = read_export(folder, CPU), read_information(folder)
    architecture = from_json(information["architecture"])
    D = read_discriminator(folder, CPU) if DISCRIMINATOR in information["files"] else None
    return TrainedNetworks(trained.origin, architecture, trained.classes, trained.generator, D)


def _open_checkpoint(folder: Path) -> TrainedNetworks:
    trained = open_checkpoint(folder, CPU)
    architecture = configured_architecture(resolve(folder / run_folder.CONFIG).model)
    D = architecture.discriminator()
    D.load_state_dict(checkpoint.read(folder, only={"discriminator"}).tensors["discriminator"])
    return TrainedNetworks(trained.origin, architecture, trained.classes, trained.generator, D)
