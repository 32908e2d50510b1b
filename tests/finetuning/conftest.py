"""Fixtures: a source run with a checkpoint of untrained networks, and exports of it."""

from pathlib import Path

import pytest
import torch
import yaml
from runs import TINY
from untrained import CLASSES, move_statistics, randomized

from biggan.config.preset import resolve
from biggan.generation.export import ExportRequest, export
from biggan.models.architecture import configured_architecture
from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Run on the classes CLASSES, at step 5."""
    folder = tmp_path_factory.mktemp("sources") / "a"
    folder.mkdir()
    preset = folder / "config.yaml"
    preset.write_text(yaml.safe_dump(yaml.safe_load(TINY)))
    config = resolve(preset, [f"run.dir={folder}", "data.path=data/letters", f"model.classes={len(CLASSES)}"])
    preset.write_text(config.to_yaml())
    networks = configured_architecture(config.model)
    G, D = move_statistics(randomized(networks.generator(), 1), randomized(networks.discriminator(), 2))
    raw = randomized(networks.generator(), 3)
    tensors = {"ema": G.state_dict(), "generator": raw.state_dict(), "discriminator": D.state_dict()}
    state = {"step": 5, "images_seen": 120, "classes": CLASSES, "evaluation": None}
    checkpoint.save(folder / "checkpoints", 5, Checkpoint(tensors, state, config.to_yaml()))
    return folder


@pytest.fixture(scope="session")
def exported(source, tmp_path_factory) -> dict[bool, Path]:
    """Exports of the source, with (True) and without (False) its discriminator."""
    root = tmp_path_factory.mktemp("exports")
    exports = {True: root / "both", False: root / "alone"}
    for discriminator, out in exports.items():
        folder = source / "checkpoints" / checkpoint.folder_name(5)
        export(ExportRequest(folder, out, (None,), "cc0-1.0", discriminator), {}, CPU, lambda: None)
    return exports
