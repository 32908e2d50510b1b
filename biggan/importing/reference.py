"""The layout of the reference PyTorch code (BigGAN-PyTorch): `G.pth`, `D.pth`, `G_ema.pth`, with optimizers and state.

Its last BatchNorm always has the epsilon 1e-5, whatever `BN_eps` is; ours have one epsilon. The difference is put into
that layer's stored variance, so that evaluation is the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.config.preset import resolve_tree
from biggan.errors import InputError
from biggan.importing import reference_names, reference_settings
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State, count_of_steps
from biggan.importing.pickles import dense, read_file, state_dict_of
from biggan.importing.shapes import architecture_of
from biggan.models.architecture import Architecture, configured_architecture

FORMAT = "the reference PyTorch code's (BigGAN-PyTorch)"
NETWORKS = ("G", "D", "G_ema")
OPTIMIZERS = {"G": "G_optim", "D": "D_optim"}
SETTINGS = "state_dict"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
OUTPUT_BN_EPS = 1e-5
MISSING = {
    "G_ema": "G_ema: the average starts as G",
    "G": "G: starts as G_ema",
    "D": "D: a generator alone, nothing to train on",
    SETTINGS: "state_dict: epsilons and settings are the code's defaults, and nothing says the step",
    "G_optim": "G_optim: Adam starts anew",
    "D_optim": "D_optim: Adam starts anew",
}


def suffixes(folder: Path) -> list[str]:
    """What stands after the names of networks in the folder: '' of `G.pth`, 'copy0' of `G_copy0.pth`."""
    known = "|".join(NETWORKS)
    names = (re.fullmatch(rf"(?:{known})(?:_(?!ema|optim)(\w+))?\.pth", file.name) for file in folder.iterdir())
    return sorted({name[1] or "" for name in names if name})


def read(folder: Path, suffix: str, overrides: Sequence[str]) -> ImportedCheckpoint:
    """Both networks, or a generator alone; raises InputError, one line, for whatever does not belong."""
    files = _files(folder, suffix)
    if "G" not in files and "G_ema" not in files:
        raise InputError(f"{folder}: holds D alone, no {_name('G', suffix)} and no {_name('G_ema', suffix)}")
    theirs = {name: state_dict_of(read_file(files[name]), str(files[name])) for name in NETWORKS if name in files}
    ours: dict[str, State] = {name: reference_names.our_state(state) for name, state in theirs.items()}
    main = "G" if "G" in ours else "G_ema"
    networks = architecture_of(ours[main], ours.get("D"), str(files[main]), str(files.get("D")))
    config, step, where = _settings(files.get(SETTINGS))
    known = reference_settings.checked(config, where)
    reference_settings.check_against_tensors(config, networks, "D" in ours, where)
    tree = reference_settings.sections(known, networks, step or 0)
    images_a_step = tree["training"]["d_steps"] * tree["training"]["batch_size"]
    resolved_config = resolve_tree(tree, overrides)
    networks = with_epsilons(networks, configured_architecture(resolved_config.model))
    for name in ours.keys() - {"D"}:
        ours[name] = _with_one_eps(ours[name], networks.bn_eps)
    has_both = "D" in ours
    optimizers = {
        name: adam_state(read_file(files[file]), theirs[name], str(files[file])) if file in files else {}
        for name, file in OPTIMIZERS.items()
        if has_both and name in theirs
    }
    return ImportedCheckpoint(
        format=FORMAT,
        networks=networks,
        ema=ours.get("G_ema", ours[main]),
        generator=ours[main] if has_both else None,
        discriminator=ours.get("D"),
        config=resolved_config,
        g_optimizer=optimizers.get("G", {}),
        d_optimizer=optimizers.get("D", {}),
        step=step,
        images_seen=None if step is None else step * images_a_step,
        notes=(*_missing(files, has_both), *(reference_settings.left_out(known) if has_both else ())),
    )


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Those that are there, by what they hold."""
    wanted = {name: folder / _name(name, suffix) for name in (*NETWORKS, *OPTIMIZERS.values(), SETTINGS)}
    return {name: file for name, file in wanted.items() if os.path.lexists(file)}


def _name(what: str, suffix: str) -> str:
    return f"{what}_{suffix}.pth" if suffix else f"{what}.pth"


def _missing(files: Mapping[str, Path], has_both: bool) -> list[str]:
    optimizers = set() if has_both else set(OPTIMIZERS.values())
    alone = set() if has_both else {"G"} if "G_ema" in files else set()
    notes = [f"no {what}" for name, what in MISSING.items() if name not in files and name not in optimizers | alone]
    if has_both and "G_optim" in files and "G" not in files:
        notes.append("G_optim is left out, it is of the missing G: Adam starts anew")
    return notes


def _settings(file: Path | None) -> tuple[Mapping[str, Any], int | None, str]:
    """Their config, the step, and what to call the place it was found in."""
    if file is None:
        return {}, None, "the code's defaults"
    found = read_file(file)
    if not isinstance(found, Mapping):
        raise InputError(f"{file}: {type(found).__name__}, no dictionary with 'itr' and 'config'")
    config = found.get("config", {})
    if not isinstance(config, Mapping):
        raise InputError(f"{file}: config: {type(config).__name__}, no dictionary")
    return config, count_of_steps(found.get("itr"), f"{file}: itr"), f"{file}: config"


def with_epsilons(networks: Architecture, configured: Architecture) -> Architecture:
    """`networks` with the epsilons that are configured; raises InputError if anything else was to be overridden."""
    filled = replace(networks, sn_eps=configured.sn_eps, bn_eps=configured.bn_eps)
    for key, value in filled.to_json().items():
        if (other := configured.to_json()[key]) != value:
            raise InputError(f"model: {key}: {other}, but the tensors are of {value}; leave it out")
    return filled


def _with_one_eps(state: State, bn_eps: float) -> State:
    name = "output_bn.running_var"
    if name not in state or bn_eps == OUTPUT_BN_EPS:
        return state
    return {**state, name: state[name] + (OUTPUT_BN_EPS - bn_eps)}


def adam_state(found: Any, theirs: State, what: str) -> dict[str, Tensor]:
    """Adam's moments and steps, as `Engine.optimizer_state` has them, of the state of torch's Adam on a network whose
    state dict is `theirs`. Parameters are known there by number alone, in the order of the state dict.

    Raises InputError, which begins with `what`, if it is no such state, of another number of parameters, or not
    finite.
    """
    names = reference_names.parameters(theirs)
    try:
        numbers = [number for group in found["param_groups"] for number in group["params"]]
        states = {number: _moments(found["state"][number]) for number in numbers if number in found["state"]}
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(f"{what}: not the state of torch's Adam ({reason})") from None
    if len(numbers) != len(names):
        raise InputError(f"{what}: of {len(numbers)} parameters, the network has {len(names)}; give those of one run")
    if states and len(states) != len(names):
        raise InputError(f"{what}: has the moments of {len(states)} of {len(names)} parameters; import without it")
    placed = [(name, states[number]) for name, number in zip(names, numbers, strict=True) if number in states]
    return {
        f"{name}/{key}": tensor
        for key in MOMENTS
        for name, tensor in _renamed({n: dense(of[key], f"{what}: {key} of {n}") for n, of in placed}, key).items()
    }


def _moments(of_one: Mapping[str, Any]) -> dict[str, Any]:
    """What Adam keeps of one parameter. Earlier versions of torch counted its steps in Python."""
    return {key: torch.tensor(float(of_one[key])) if key == "step" else of_one[key] for key in MOMENTS}


def _renamed(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    state = reference_names.our_state(tensors)
    return {name: tensor.squeeze() for name, tensor in state.items()} if key == "step" else state
