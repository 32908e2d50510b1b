"""Read folders of the reference PyTorch code (BigGAN-PyTorch): `G.pth`, `D.pth`, `G_ema.pth`, optimizers and state.

The last BatchNorm of the reference code always has the epsilon 1e-5, independent of `BN_eps`. In biggan all layers have
the same epsilon. The difference is added to the stored variance of that layer, so evaluation is unchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biggan.config.preset import resolve_tree
from biggan.errors import InputError
from biggan.importing import reference_settings
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State, parse_step
from biggan.importing.pickles import dense, read_file, state_dict_of
from biggan.importing.shapes import infer_architecture
from biggan.models.architecture import Architecture, configured_architecture

FORMAT = "the reference PyTorch code (BigGAN-PyTorch)"
NETWORKS = ("G", "D", "G_ema")
OPTIMIZERS = {"G": "G_optim", "D": "D_optim"}
SETTINGS = "state_dict"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
OUTPUT_BN_EPS = 1e-5
MISSING = {
    "G_ema": "G_ema: the EMA generator starts as G",
    "G": "G: the generator starts as G_ema",
    "D": "D: the generator can be exported, but not trained",
    SETTINGS: "state_dict: epsilons and settings are the reference code's defaults, the step is unknown",
    "G_optim": "G_optim: Adam starts from zero",
    "D_optim": "D_optim: Adam starts from zero",
}
RENAMES = (
    (r"^shared\.", "class_embedding."),
    (r"^embed\.", "class_embedding."),
    (r"^output_layer\.0\.", "output_bn."),
    (r"^output_layer\.2\.", "output_conv."),
    (r"\.conv_sc\.", ".conv_shortcut."),
    (r"(\bbn\d|^output_bn)\.bn\.", r"\1."),  # cross-replica BatchNorm is a module inside the conditional one
    (r"\.stored_mean$", ".running_mean"),
    (r"\.stored_var$", ".running_var"),
    (r"\.u0$", ".u"),
)
BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
ATTENTION = re.compile(r"(theta|phi|g|o)\.|gamma$")
RECOMPUTED = re.compile(r"\.(sv\d+|num_batches_tracked|accumulation_counter)$")
"""Estimates and counters that biggan computes itself."""
BUFFER = re.compile(r"\.(u\d+|stored_(mean|var)|running_(mean|var))$")


def suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the networks in the folder: '' for `G.pth`, 'copy0' for `G_copy0.pth`."""
    networks = "|".join(NETWORKS)
    matches = (re.fullmatch(rf"(?:{networks})(?:_(?!ema|optim)(\w+))?\.pth", file.name) for file in folder.iterdir())
    return sorted({match[1] or "" for match in matches if match})


def read(folder: Path, suffix: str, overrides: Sequence[str]) -> ImportedCheckpoint:
    """Read both networks, or only a generator. Raises InputError, one line, for files that do not match the format."""
    files = _files(folder, suffix)
    if "G" not in files and "G_ema" not in files:
        raise InputError(f"{folder}: no {_name('G', suffix)} and no {_name('G_ema', suffix)}; add one of them")
    theirs = {name: state_dict_of(read_file(files[name]), str(files[name])) for name in NETWORKS if name in files}
    ours: dict[str, State] = {name: our_state(state) for name, state in theirs.items()}
    main = "G" if "G" in ours else "G_ema"
    networks = infer_architecture(ours[main], ours.get("D"), str(files[main]), str(files.get("D")))
    config, step, where = _read_settings(files.get(SETTINGS))
    settings = reference_settings.check_settings(config, where)
    reference_settings.check_against_tensors(config, networks, "D" in ours, where)
    tree = reference_settings.config_sections(settings, networks, step or 0)
    images_per_step = tree["training"]["d_steps"] * tree["training"]["batch_size"]
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
        images_seen=None if step is None else step * images_per_step,
        notes=(*_missing_notes(files, has_both), *(reference_settings.unsupported(settings) if has_both else ())),
    )


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the existing files, by their contents."""
    candidates = {name: folder / _name(name, suffix) for name in (*NETWORKS, *OPTIMIZERS.values(), SETTINGS)}
    return {name: file for name, file in candidates.items() if os.path.lexists(file)}


def _name(content: str, suffix: str) -> str:
    return f"{content}_{suffix}.pth" if suffix else f"{content}.pth"


def _missing_notes(files: Mapping[str, Path], has_both: bool) -> list[str]:
    not_needed = set() if has_both else set(OPTIMIZERS.values()) | ({"G"} if "G_ema" in files else set())
    notes = [f"no {note}" for name, note in MISSING.items() if name not in files and name not in not_needed]
    if has_both and "G_optim" in files and "G" not in files:
        notes.append("G_optim is ignored because its G is missing: Adam starts from zero")
    return notes


def _read_settings(file: Path | None) -> tuple[Mapping[str, Any], int | None, str]:
    """Return the reference code's config, the step, and the config's location for messages."""
    if file is None:
        return {}, None, "the reference code's defaults"
    contents = read_file(file)
    if not isinstance(contents, Mapping):
        kind = type(contents).__name__
        raise InputError(f"{file}: {kind}, not a dictionary with 'itr' and 'config'; copy it again or move it away")
    config = contents.get("config", {})
    if not isinstance(config, Mapping):
        raise InputError(f"{file}: config: {type(config).__name__}, not a dictionary; copy it again or move it away")
    return config, parse_step(contents.get("itr"), f"{file}: itr"), f"{file}: config"


def with_epsilons(networks: Architecture, configured: Architecture) -> Architecture:
    """Return `networks` with the configured epsilons. Raises InputError if the config overrides anything else."""
    filled = replace(networks, sn_eps=configured.sn_eps, bn_eps=configured.bn_eps)
    stated = asdict(configured)
    for key, value in asdict(filled).items():
        if (other := stated[key]) != value:
            raise InputError(f"model: {key}: {other}, but the tensors have {value}; remove the key")
    return filled


def _with_one_eps(state: State, bn_eps: float) -> State:
    name = "output_bn.running_var"
    if name not in state or bn_eps == OUTPUT_BN_EPS:
        return state
    return {**state, name: state[name] + (OUTPUT_BN_EPS - bn_eps)}


def adam_state(contents: Any, theirs: State, source: str) -> dict[str, Tensor]:
    """Return Adam's moments and steps in the form of `Engine.optimizer_state`.

    `contents` is the state of torch's Adam on a network with the state dict `theirs`. It identifies parameters only by
    number, in the order of the state dict. Raises InputError, starting with `source`, if it is no such state, has
    another number of parameters, or is not finite.
    """
    names = parameter_names(theirs)
    try:
        numbers = [number for group in contents["param_groups"] for number in group["params"]]
        states = {number: _moments(contents["state"][number]) for number in numbers if number in contents["state"]}
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(f"{source}: not the state of torch's Adam ({reason}); import without it") from None
    if len(numbers) != len(names):
        raise InputError(
            f"{source}: {len(numbers)} parameters, but the network has {len(names)}; give files of one run"
        )
    if states and len(states) != len(names):
        raise InputError(f"{source}: moments of only {len(states)} of {len(names)} parameters; import without it")
    placed = [(name, states[number]) for name, number in zip(names, numbers, strict=True) if number in states]
    return {
        f"{name}/{key}": tensor
        for key in MOMENTS
        for name, tensor in _renamed(
            {n: dense(moments[key], f"{source}: {key} of {n}") for n, moments in placed}, key
        ).items()
    }


def _moments(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return Adam's state of one parameter. Earlier versions of torch stored the step as a Python number."""
    return {key: torch.tensor(float(state[key])) if key == "step" else state[key] for key in MOMENTS}


def _renamed(tensors: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    state = our_state(tensors)
    return {name: tensor.squeeze() for name, tensor in state.items()} if key == "step" else state


def our_state(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's state dict with biggan's names and shapes.

    The reference code has lists of lists of blocks that include attention. biggan numbers the blocks consecutively, and
    attention by the block it follows.
    """
    numbers = _numbers(theirs)
    state = {}
    for name, tensor in theirs.items():
        if RECOMPUTED.search(name):
            continue
        if match := BLOCK.match(name):
            kind, number = numbers[int(match[1]), int(match[2])]
            name = f"{kind}.{number}.{match[3]}"
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        state[name] = tensor.flatten() if name.endswith((".u", ".gamma")) else tensor
    return state


def parameter_names(theirs: Mapping[str, Tensor]) -> list[str]:
    """Return the reference code's parameter names, in the order its optimizer numbers them: the state dict's."""
    return [name for name in theirs if not RECOMPUTED.search(name) and not BUFFER.search(name)]


def _numbers(names: Iterable[str]) -> dict[tuple[int, int], tuple[str, int]]:
    """Map (list, index) of each element to ("blocks", number) or ("attention", number of the block before)."""
    kinds: dict[tuple[int, int], str] = {}
    for name in names:
        if match := BLOCK.match(name):
            kinds[int(match[1]), int(match[2])] = "attention" if ATTENTION.match(match[3]) else "blocks"
    numbers, block = {}, -1
    for place, kind in sorted(kinds.items()):
        block += kind == "blocks"
        numbers[place] = (kind, block)
    return numbers
