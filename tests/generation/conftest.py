"""Fixtures: a run with checkpoints of untrained networks, and an export of it."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from runs import TINY

from biggan.config.preset import resolve
from biggan.generation.bulk import digest
from biggan.generation.export import ExportRequest, export
from biggan.models.architecture import configured_architecture
from biggan.models.networks import initialize
from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint

CPU = torch.device("cpu")
CLASSES = tuple("abcdefghij")
FIDS = {3: 20.5, 5: 10.5, 8: 12.5}
PROTOCOL = {"features": "classifier", "truncation": None, "num_images": 2000}


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Run with different random weights and BatchNorm statistics at each step. Step 5 is best, step 3 is good."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    folder.mkdir()
    preset = folder / "config.yaml"
    tree = yaml.safe_load(TINY) | {"run": {"dir": str(folder)}}
    tree["data"]["path"] = "data/letters"
    preset.write_text(yaml.safe_dump(tree))
    config = resolve(preset)
    preset.write_text(config.to_yaml())
    results = []
    for step in FIDS:
        torch.manual_seed(step)
        ema, D = (
            configured_architecture(config.model).generator(),
            configured_architecture(config.model).discriminator(),
        )
        initialize(ema, "orthogonal")
        with torch.no_grad():
            for _ in range(3):
                images = ema(torch.randn(16, ema.z_dim), torch.randint(10, (16,)))
                D(images, torch.randint(10, (16,)))
        result = {"step": step, "metrics": {"kid": step / 100}, "protocol": PROTOCOL, "generator": digest(ema)}
        results.append(result)
        tensors = {"ema": ema.state_dict(), "generator": ema.state_dict(), "discriminator": D.state_dict()}
        score = {"step": step, "metric": "fid", "metrics": {"fid": FIDS[step]}, "protocol": PROTOCOL}
        state = {"step": step, "images_seen": 24 * step, "classes": CLASSES, "evaluation": score}
        checkpoint.save(folder / "checkpoints", step, Checkpoint(tensors, state, config.to_yaml()))
    (folder / "checkpoints" / "pinned.json").write_text('{"good": 3, "pinned": {}}')
    (folder / "lineage.json").write_text('{"parent": "runs/z", "step": 2, "changes": {"optimizer.g_lr": [0.1, 0.2]}}')
    (folder / "evaluation").mkdir()
    # The last entry is step 8 before a rollback: another generator.
    before = [result, result | {"protocol": PROTOCOL | {"truncation": 0.5}}, result | {"generator": "0" * 16}]
    (folder / "evaluation" / "classifier.json").write_text(json.dumps({"results": [*results[:-1], *before]}))
    for k, other in enumerate(({"step": 8}, {"generator": result["generator"]}, 3, result | {"protocol": "none"})):
        (folder / "evaluation" / f"other{k}.json").write_text(json.dumps({"results": [other]}))
    (folder / "evaluation" / "broken.json").write_text('{"results": [3')
    return folder


def request(run: Path, out: Path, step: int = 8, truncations=(None,), discriminator=False) -> ExportRequest:
    folder = run / "checkpoints" / checkpoint.folder_name(step)
    return ExportRequest(folder, out, truncations, "cc0-1.0", discriminator)


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory) -> Path:
    """Export of step 8, with statistics for no truncation and 0.5, and with the discriminator."""
    out = tmp_path_factory.mktemp("exports") / "letters"
    export(request(run, out, truncations=(None, 0.5), discriminator=True), {}, CPU, lambda: None)
    return out
