"""Checkpoints written by hand, in the forms that others publish."""

import numpy as np
import torch
from golden.reference import load
from torch import nn

STEP = 7
NOT_SETTINGS = ("steps", "losses", "G_params", "D_params", "arch", "dim_z_effective", "skip_init")


def their_state(tensors, prefix):
    """A state dict of the reference's, backwards: no importer may lean on the order of the alphabet."""
    names = sorted((k for k in tensors if k.startswith(f"{prefix}.")), reverse=True)
    return {name.removeprefix(f"{prefix}."): tensors[name].clone() for name in names}


def their_settings(settings, **changes):
    """What the reference's training leaves in state_dict.pth."""
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
    """G.pth, D.pth, G_ema.pth and state_dict.pth of a golden file's first networks; returns (settings, tensors).

    `edit(file, contents)` gives what is written.
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
