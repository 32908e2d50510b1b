"""A synthetic run folder: healthy at first, rolled back once, then collapsing."""

import json
import math
import random
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from biggan.image_grid import grid

CONFIG = """
run: {dir: runs/a}
training: {steps: 20000, batch_size: 32}
optimizer: {g_lr: 0.0004, d_lr: 0.0008}
"""
STEPS = 3100
ONSET = 2900
GOOD = 2800
LAYERS = ("G.linear", "G.blocks.0.conv1", "G.blocks.1.bn1.gain", "D.blocks.0.conv1", "D.linear", "D.class_embedding")
GROWING = ("D.blocks.0.conv1", "G.linear")
"""Layers whose sigma_0 explodes after the onset: the first fivefold, the second twofold."""
EVENTS = (
    {"step": 1950, "level": "collapsing", "onset_step": 1900, "reasons": ["diversity/generator fell from 0.5 to 0.2"],
     "layers": [], "signals": ["diversity"], "action": "rolled back", "good_step": 1600},
    {"step": 2000, "level": "healthy", "onset_step": None, "reasons": [], "layers": [], "signals": [],
     "action": "none", "good_step": None},
    {"step": 2990, "level": "warning", "onset_step": 2910, "reasons": ["sigma/D.linear/0 grew 1.4 times"],
     "layers": ["D.linear"], "signals": ["spectrum"], "action": "pinned", "good_step": 2800},
    {"step": STEPS, "level": "collapsing", "onset_step": ONSET,
     "reasons": ["d_logit_real_spread fell from 0.61 to 0.02 (<b>not bold</b>)", "sigma/D.linear/0 grew 1.6 times"],
     "layers": ["D.linear"], "signals": ["spread", "spectrum"], "action": "halted", "good_step": GOOD},
)  # fmt: skip


def row(step: int, layers=LAYERS, onset: int = ONSET, seed: int = 0) -> dict:
    """Return a row of metrics.jsonl; the collapse takes 200 steps from `onset` on."""
    severity = min(1.0, max(0.0, (step - onset) / 200))
    noise = random.Random(f"{seed} {step}")
    wobble = noise.gauss(0, 1)
    values_by_key = {
        "step": step,
        "images_seen": step * 64,
        "images_per_second": 212.5,
        "seconds": step / 7,
        "g_loss": 0.4 + 0.15 * wobble + 30 * severity**2,
        "d_loss_real": 0.6 * math.exp(-step / 4000) + 0.05 * noise.gauss(0, 1) + 2 * severity,
        "d_loss_fake": 0.55 * math.exp(-step / 4000) + 0.05 * noise.gauss(0, 1) + 1.5 * severity,
        "d_logit_real": 0.8 + 0.1 * wobble - 0.8 * severity,
        "d_logit_fake": -0.7 + 0.1 * wobble + 0.7 * severity,
        "d_logit_real_spread": 0.61 * (1 - severity) ** 2 + 0.02 + 0.03 * abs(wobble),
        "d_logit_fake_spread": 0.52 * (1 - severity) ** 2 + 0.02 + 0.03 * abs(wobble),
        "d_accuracy_real": min(1.0, 0.75 + step / 20000 + 0.02 * wobble),
        "d_accuracy_fake": min(1.0, 0.78 + step / 20000 + 0.02 * wobble),
        "g_grad_norm": 0.3 * math.exp(0.3 * wobble) * (1 + 20 * severity),
        "d_grad_norm": 1.2 * math.exp(0.3 * wobble) * (1 + 50 * severity),
        "non_finite_steps": 0,
    }
    if step % 50 == 0:
        for k, layer in enumerate(layers):
            top = (1 + k % 7) * (1 + step / 20000) * math.exp(0.01 * noise.gauss(0, 1))
            top *= 1 + severity * {GROWING[0]: 4, GROWING[1]: 1}.get(layer, 0)
            values = (top, (1 + k % 7) * 0.7, (1 + k % 7) * 0.6)
            values_by_key |= {f"sigma/{layer}/{n}": value for n, value in enumerate(values)}
            values_by_key |= {f"sigma/{layer}/ratio": values[0] / values[1], f"sigma/{layer}/slope": 0.01}
            values_by_key[f"sigma/{layer}/normalized_0"] = 1.0
    if step % 250 == 0:
        values_by_key |= {
            "diversity/generator": 0.5 - 0.3 * severity,
            "diversity/ema": 0.48 - 0.1 * severity,
            "duplicates/generator": 0.02 + 0.6 * severity,
            "duplicates/ema": 0.02 + 0.2 * severity,
            "d_accuracy_train": min(0.99, 0.7 + step / 12000),
            "d_accuracy_held_out": 0.7 - step / 20000,
        }
    return values_by_key


def write_rows(path: Path, steps, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for step in steps:
            file.write(json.dumps(row(step, **settings)) + "\n")


def samples(folder: Path, steps, onset: int = ONSET) -> None:
    """Write grids of real digits; from the onset on, noise replaces them."""
    folder.mkdir(parents=True, exist_ok=True)
    digits, rng = load_digits(), np.random.default_rng(0)
    by_class = np.stack([digits.images[digits.target == c][:6] for c in range(10)]) / 16
    for step in steps:
        severity = min(1.0, max(0.0, (step - onset) / 100))
        faded = by_class * (1 - 0.8 * severity) + severity * rng.random(by_class.shape)
        pixels = np.repeat((255 * faded.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=-1)
        grid(pixels, [f"class {c}" for c in range(10)]).save(folder / f"step_{step:08d}.png")


def checkpoint(root: Path, step: int, manifest: bool = True) -> None:
    folder = root / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "generator.safetensors").write_bytes(bytes(3 * 2**20))
    if manifest:
        (folder / "manifest.json").write_text("{}")


def collapsed_run(folder: Path) -> Path:
    """Write the run folder, with every kind of file."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    write_rows(folder / "metrics.jsonl", range(10, STEPS + 1, 10))
    write_rows(folder / "collapse" / "attempt_01.jsonl", range(1610, 1951, 10), onset=1900)
    (folder / "collapse" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    samples(folder / "samples", range(100, STEPS + 1, 100))
    for step in (400, 1600, 2400, GOOD, 3000):
        checkpoint(folder / "checkpoints", step)
    checkpoint(folder / "checkpoints", STEPS, manifest=False)
    pinned = {"2400": "before the collapse suspected from step 2900 on", str(GOOD): "the last good one"}
    (folder / "checkpoints" / "pinned.json").write_text(json.dumps({"good": GOOD, "pinned": pinned}))
    lineage = {"parent": "runs/first & best", "step": 0, "changes": {"optimizer.g_lr": [0.0008, 0.0004]}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder
