"""Small generators with random weights, and a run folder with one: sampling needs no training."""

from pathlib import Path

import torch
from runs import TINY

from biggan.config.preset import resolve
from biggan.models.architecture import configured_architecture
from biggan.models.biggan import BigGANGenerator
from biggan.models.networks import initialize
from biggan.runs import checkpoint, run_folder
from biggan.runs.checkpoint import Checkpoint

CLASSES = ("ant", "bee", "cat", "dog")


def small_generator(seed: int = 0, class_embedding_dim: int = 6) -> BigGANGenerator:
    """32 px, with attention and random BatchNorm means. z has 4 chunks of 4, or 1 without shared embedding."""
    torch.manual_seed(seed)
    generator = BigGANGenerator(32, 4, len(CLASSES), 16, class_embedding_dim, class_embedding_dim > 0, [16])
    initialize(generator, "orthogonal")
    for name, buffer in generator.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return generator.eval()


def saved_run(folder: Path, steps=(3,), **model) -> Path:
    """Create a run folder in `folder`, with checkpoints of these steps, each with different weights."""
    preset = folder / "preset.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    preset.write_text(TINY)
    sizes = {"classes": len(CLASSES), **model}
    config = resolve(
        preset, [f"run.dir={folder / 'run'}", "data.path=x", *(f"model.{k}={v}" for k, v in sizes.items())]
    )
    root = run_folder.checkpoints(folder / "run")
    root.mkdir(parents=True)
    (folder / "run" / run_folder.CONFIG).write_text(config.to_yaml())
    for step in steps:
        torch.manual_seed(step)
        generator = configured_architecture(config.model).generator()
        initialize(generator, "orthogonal")
        tensors = {"ema": generator.state_dict()}
        state = {"step": step, "images_seen": 24 * step, "classes": CLASSES}
        checkpoint.save(root, step, Checkpoint(tensors, state, config.to_yaml()))
    return folder / "run"
