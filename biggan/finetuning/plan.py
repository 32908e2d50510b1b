"""What a run with `init.from` begins as: planned before its folder is, applied once, and written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from biggan.config import Config
from biggan.errors import InputError
from biggan.files import write_atomically
from biggan.finetuning.block_mapping import d_candidates, g_candidates
from biggan.finetuning.class_mapping import ClassRow, class_rows, summary
from biggan.finetuning.trained_networks import KEY, TrainedNetworks, open_trained
from biggan.finetuning.transfer import Row, Transfer, transferred
from biggan.gan import Gan
from biggan.generation.architecture_json import shapes_of
from biggan.models.architecture import Architecture, configured_architecture
from biggan.models.folding import folded
from biggan.models.networks import Discriminator, Generator, first_blocks

FILE = "init.json"
"""In the run's folder: `FineTuningPlan.to_json`."""


@dataclass(frozen=True)
class FineTuningPlan:
    """Both networks' tensors, and what became of each part and class."""

    origin: str
    """The source."""
    classes: tuple[ClassRow, ...]
    generator: Transfer
    discriminator: Transfer

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of both networks."""
        return self.generator.rows + self.discriminator.rows

    def begin(self, gan: Gan) -> None:
        """Put the tensors into a run's networks; the average begins as the generator. On all processes alike."""
        for engine, transfer in ((gan.generator, self.generator), (gan.discriminator, self.discriminator)):
            with engine.changing_weights() as network:
                unknown = network.load_state_dict(transfer.tensors, strict=False).unexpected_keys
            assert not unknown, unknown
        gan.ema.module.load_state_dict(gan.generator.module.state_dict())

    def lines(self) -> list[str]:
        """A table of the parts, and the classes."""
        width = max(len(row.part) for row in self.rows)
        table = [f"  {row.part:{width}}  {row.outcome:7}  {row.detail}".rstrip() for row in self.rows]
        return [f"beginning as {self.origin}:", *table, *(f"  classes {line}" for line in summary(self.classes))]

    def write(self, run_dir: Path) -> None:
        """Write it into the run's folder; raises InputError if that cannot be."""
        try:
            write_atomically(run_dir / FILE, json.dumps(self.to_json(), indent=1) + "\n")
        except OSError as error:
            raise InputError(f"run.dir: {run_dir / FILE}: cannot be written ({error.strerror or error})") from None

    def to_json(self) -> dict[str, Any]:
        """All of it but the tensors."""
        classes = {row.name: row.how for row in self.classes}
        return {"source": self.origin, "parts": [asdict(row) for row in self.rows], "classes": classes}


def plan(config: Config, classes: Sequence[str], folder: Path) -> FineTuningPlan:
    """What a run on a data set of `classes` takes of the export or checkpoint in `folder`.

    Raises InputError, one line, if it is damaged, if nothing of its generator fits, or if weights would be frozen that
    are not taken.
    """
    trained, mine = open_trained(folder), configured_architecture(config.model)
    if trained.networks.family != mine.family:
        raise InputError(_of_another_kind(trained, mine))
    rows = class_rows(classes, trained.classes, config.init.neighbours)
    G, D = shapes_of(mine)
    # Without spectral norm here, the weights that it had divided there.
    their_G = trained.generator if mine.g_spectral_norm else folded(trained.generator)
    g_transfer = transferred("G", G, their_G, g_candidates(mine, trained.networks), rows)
    if not _blocks_taken(g_transfer):
        raise InputError(_of_another_kind(trained, mine))
    if trained.discriminator is None:
        if config.init.freeze_d_blocks:
            raise InputError(
                f"init.freeze_d_blocks: {trained.origin} has no discriminator, a new one would be frozen as it was "
                "drawn; leave it and init.freeze_d_steps out"
            )
        d_transfer = Transfer({}, (Row("D", "left", "the source has no discriminator: it begins anew"),))
    else:
        d_transfer = transferred("D", D, trained.discriminator, d_candidates(mine, trained.networks), rows)
    check_frozen("G", config.init.freeze_g_blocks, G, g_transfer)
    check_frozen("D", config.init.freeze_d_blocks, D, d_transfer)
    g_transfer = replace(g_transfer, rows=g_transfer.rows + _epsilons(mine, trained.networks))
    return FineTuningPlan(trained.origin, rows, g_transfer, d_transfer)


def _epsilons(mine: Architecture, theirs: Architecture) -> tuple[Row, ...]:
    """What the networks divide with, where the source has another: equal weights are then not quite its function."""
    pairs = {"bn_eps": (mine.bn_eps, theirs.bn_eps), "sn_eps": (mine.sn_eps, theirs.sn_eps)}
    return tuple(Row(f"model.{key}", "left", f"{a:g}; the source has {b:g}") for key, (a, b) in pairs.items() if a != b)


def _blocks_taken(transfer: Transfer) -> set[int]:
    """Numbers of the blocks that do not begin as they were drawn."""
    blocks = [row for row in transfer.rows if row.part[1:].startswith(".blocks.")]
    return {int(row.part.split(".")[2]) for row in blocks if row.outcome in ("taken", "adapted")}


def check_frozen(of: str, wanted: int, network: Generator | Discriminator, transfer: Transfer) -> None:
    """Raise InputError if one of the lower layers of `network`, called `of` (G or D), would stay as it was drawn."""
    key, blocks = f"init.freeze_{of.lower()}_blocks", len(network.blocks)
    if wanted > blocks:
        raise InputError(f"{key}: {wanted}, but the network has {blocks} blocks; use at most that")
    for most in range(wanted):
        new = next((name for name in first_blocks(network, most + 1) if name not in transfer.tensors), None)
        if new is not None:
            mend = f"use at most {most}" if most else f"leave it and init.freeze_{of.lower()}_steps out"
            raise InputError(
                f"{key}: {wanted}, but {of}.{new} is not taken from the source and would be frozen as it was drawn; "
                f"{mend}"
            )


def _of_another_kind(trained: TrainedNetworks, mine: Architecture) -> str:
    """That nothing fits, naming both."""

    def named(networks: Architecture) -> str:
        plain = "" if networks.residual else ", not residual"
        return f"{networks.family}, {networks.resolution} px, channels {networks.channels}{plain}"

    return (
        f"{KEY}: nothing of the generator of {trained.origin} ({named(trained.networks)}) fits this run's "
        f"({named(mine)}); give the run its model.family and model.channels"
    )
