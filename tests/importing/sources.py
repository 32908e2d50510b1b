"""Write checkpoints in the layout of the reference code."""

import numpy as np
import torch
from golden.reference import load
from torch import nn

STEP = 7
NOT_SETTINGS = ("steps", "losses", "G_params", "D_params", "arch", "dim_z_effective", "skip_init")


def their_state(tensors, prefix):
    """Return a state dict of the reference code in reverse order: importers must not rely on alphabetical order."""
    names = sorted((k for k in tensors if k.startswith(f"{prefix}.")), reverse=True)
    return {name.removeprefix(f"{prefix}."): tensors[name].clone() for name in names}


def their_settings(settings, **changes):
    """Return the contents of state_dict.pth as the reference code's training writes it."""
    config = {key: value for key, value in settings.items() if key not in NOT_SETTINGS}
    activations = {"G_nl": "relu", "G_activation": nn.ReLU(inplace=False), "D_activation": nn.ReLU(inplace=True)}
    return {
        "itr": STEP,
        "epoch": 0,
        "best_IS": np.float32(3.5),
        "best_FID": np.float64(99.0),
        "config": {**config, **activations, "G_B1": 0.0, "D_B1": 0.0, "experiment_name": "x", **changes},
    }


def write_reference(folder, name, suffix="", edit=lambda _file, contents: contents, without=()):
    """Write G.pth, D.pth, G_ema.pth and state_dict.pth of a golden file's initial networks.

    `edit(file, contents)` returns the contents to write. Return (settings, tensors) of the golden file.
    """
    settings, tensors = load(name)
    files = {
        "G": their_state(tensors, "init.G"),
        "D": their_state(tensors, "init.D"),
        "G_ema": their_state(tensors, "init.G"),
        "state_dict": their_settings(settings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, contents in files.items():
        if file not in without:
            torch.save(edit(file, contents), folder / f"{file}{suffix}.pth")
    return settings, tensors
