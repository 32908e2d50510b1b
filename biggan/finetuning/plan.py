"""The plan of a fine-tuning run (`init.from`): made before the run's folder, applied once, and saved as `init.json`."""

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
from biggan.finetuning.transfer import PartRow, Transfer, make_transfer
from biggan.gan import Gan
from biggan.generation.architecture_json import meta_networks
from biggan.models.architecture import Architecture, configured_architecture
from biggan.models.folding import folded
from biggan.models.networks import Discriminator, Generator, first_blocks

FILE = "init.json"
"""File name of `FineTuningPlan.to_json` in the run's folder."""


@dataclass(frozen=True)
class FineTuningPlan:
    """Initial tensors of both networks, and the outcome for each part and class."""

    origin: str
    """`runs/a@1200`, or the path of an export."""
    classes: tuple[ClassRow, ...]
    generator: Transfer
    discriminator: Transfer

    @property
    def rows(self) -> tuple[PartRow, ...]:
        """Return the rows of both networks."""
        return self.generator.rows + self.discriminator.rows

    def apply(self, gan: Gan) -> None:
        """Load the tensors into a run's networks, and G's weights into the EMA generator. Same on all processes."""
        for engine, transfer in ((gan.generator, self.generator), (gan.discriminator, self.discriminator)):
            with engine.changing_weights() as network:
                unknown = network.load_state_dict(transfer.tensors, strict=False).unexpected_keys
            assert not unknown, unknown
        gan.ema.module.load_state_dict(gan.generator.module.state_dict())

    def lines(self) -> list[str]:
        """Return the plan as text: a table of the parts, and the classes."""
        width = max(len(row.part) for row in self.rows)
        table = [f"  {row.part:{width}}  {row.outcome:7}  {row.detail}".rstrip() for row in self.rows]
        return [f"initializing from {self.origin}:", *table, *(f"  classes {line}" for line in summary(self.classes))]

    def write(self, run_dir: Path) -> None:
        """Write `init.json` into the run's folder; raise InputError if it cannot be written."""
        try:
            write_atomically(run_dir / FILE, json.dumps(self.to_json(), indent=1) + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"run.dir: {run_dir / FILE}: cannot be written ({reason}); choose another run.dir"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return the plan without its tensors."""
        classes = {row.name: row.rule for row in self.classes}
        return {"source": self.origin, "parts": [asdict(row) for row in self.rows], "classes": classes}


def plan(config: Config, classes: Sequence[str], folder: Path) -> FineTuningPlan:
    """Return the plan for a run on a data set of `classes`, from the export or checkpoint in `folder`.

    Raises InputError, one line, if the source is corrupt, if nothing of its generator fits, or if weights would be
    frozen that are not taken from it.
    """
    trained, architecture = open_trained(folder), configured_architecture(config.model)
    if trained.architecture.family != architecture.family:
        raise InputError(_nothing_fits(trained, architecture))
    rows = class_rows(classes, trained.classes, config.init.neighbours)
    G, D = meta_networks(architecture)
    # A network without spectral norm needs the weights as the source's spectral norm divided them.
    source_G = trained.generator if architecture.g_spectral_norm else folded(trained.generator)
    g_transfer = make_transfer("G", G, source_G, g_candidates(architecture, trained.architecture), rows)
    if not _blocks_taken(g_transfer):
        raise InputError(_nothing_fits(trained, architecture))
    if trained.discriminator is None:
        if config.init.freeze_d_blocks:
            raise InputError(
                f"init.freeze_d_blocks: {trained.origin} has no discriminator: a newly initialized one would be "
                "frozen; leave it and init.freeze_d_steps out"
            )
        d_transfer = Transfer({}, (PartRow("D", "left", "the source has no discriminator: newly initialized"),))
    else:
        d_candidate_blocks = d_candidates(architecture, trained.architecture)
        source_D = trained.discriminator if architecture.d_spectral_norm else folded(trained.discriminator)
        d_transfer = make_transfer("D", D, source_D, d_candidate_blocks, rows)
    check_frozen("G", config.init.freeze_g_blocks, G, g_transfer)
    check_frozen("D", config.init.freeze_d_blocks, D, d_transfer)
    g_transfer = replace(g_transfer, rows=g_transfer.rows + _epsilon_rows(architecture, trained.architecture))
    return FineTuningPlan(trained.origin, rows, g_transfer, d_transfer)


def _epsilon_rows(run: Architecture, source: Architecture) -> tuple[PartRow, ...]:
    """Return a row for each epsilon that differs: equal weights are then not exactly the same function."""
    pairs = {"bn_eps": (run.bn_eps, source.bn_eps), "sn_eps": (run.sn_eps, source.sn_eps)}
    return tuple(
        PartRow(f"model.{key}", "left", f"{a:g}; the source has {b:g}") for key, (a, b) in pairs.items() if a != b
    )


def _blocks_taken(transfer: Transfer) -> set[int]:
    """Return the indices of the blocks that are initialized from the source."""
    blocks = [row for row in transfer.rows if row.part[1:].startswith(".blocks.")]
    return {int(row.part.split(".")[2]) for row in blocks if row.outcome in ("taken", "adapted")}


def check_frozen(name: str, frozen: int, network: Generator | Discriminator, transfer: Transfer) -> None:
    """Raise InputError if a weight in the first `frozen` blocks of `network`, called `name` (G or D), is not taken.

    Only the names of the weights are read, so `network` may be on the `meta` device.
    """
    key, blocks = f"init.freeze_{name.lower()}_blocks", len(network.blocks)
    if frozen > blocks:
        raise InputError(f"{key}: {frozen}, but the network has {blocks} blocks; use at most {blocks}")
    for allowed in range(frozen):
        new = next((weight for weight in first_blocks(network, allowed + 1) if weight not in transfer.tensors), None)
        if new is not None:
            fix = f"use at most {allowed}" if allowed else f"leave it and init.freeze_{name.lower()}_steps out"
            raise InputError(
                f"{key}: {frozen}, but {name}.{new} is not taken from the source: new weights would be frozen; {fix}"
            )


def _nothing_fits(trained: TrainedNetworks, run: Architecture) -> str:
    """Return the error message that names both architectures."""

    def described(architecture: Architecture) -> str:
        plain = "" if architecture.residual else ", not residual"
        return f"{architecture.family}, {architecture.resolution} px, channels {architecture.channels}{plain}"

    return (
        f"{KEY}: no tensor of the generator of {trained.origin} ({described(trained.architecture)}) fits this run's "
        f"({described(run)}); set the source's model.family and model.channels in the run"
    )
