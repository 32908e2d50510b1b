"""Checks of an import: every tensor is used and has the right shape, and the networks give finite outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from biggan.data.dataset import Dataset
from biggan.errors import InputError
from biggan.generation.architecture_json import meta_networks
from biggan.importing.imported_checkpoint import ImportedCheckpoint, State
from biggan.models.architecture import Architecture
from biggan.models.networks import Generator

MOMENTS = ("exp_avg", "exp_avg_sq")


def check_data_fits_networks(dataset: Dataset, networks: Architecture) -> None:
    """Raise InputError if the networks cannot be trained on a data set."""
    expected, packed = (networks.resolution, networks.image_channels), (dataset.resolution, dataset.channels)
    if expected != packed:
        needs, has = (f"{'grey' if channels == 1 else 'RGB'} images of {px} px" for px, channels in (expected, packed))
        raise InputError(f"--data: the data set has {has}, but the networks need {needs}; pack it that way")


@torch.no_grad()
def checked_generator(imported: ImportedCheckpoint, source: Path) -> Generator:
    """Load all tensors into their networks and run them. Return the EMA generator in evaluation mode.

    Raises InputError, one line that names the tensor, unless all tensors exist, fit, and give finite images and logits.
    """
    ema, discriminator = meta_networks(imported.networks)
    generator = meta_networks(imported.networks)[0]
    load_tensors(ema, imported.ema, f"{source}: the EMA generator")
    z, y = torch.zeros(2, ema.z_dim), torch.arange(2) % ema.classes
    images = ema.eval()(z, y)
    outputs = {"the EMA generator": images}
    if imported.generator is not None and imported.discriminator is not None:
        load_tensors(generator, imported.generator, f"{source}: the generator")
        load_tensors(discriminator, imported.discriminator, f"{source}: the discriminator")
        outputs |= {"the generator": generator.eval()(z, y), "the discriminator": discriminator.eval()(images, y)}
        for network, optimizer, what in (
            (generator, imported.g_optimizer, "the generator's optimizer"),
            (discriminator, imported.d_optimizer, "the discriminator's optimizer"),
        ):
            check_tensors(_moments(network) if optimizer else {}, optimizer, f"{source}: {what}")
    for what, output in outputs.items():
        if not output.isfinite().all():
            raise InputError(f"{source}: {what} outputs values that are not finite; its run had diverged")
    return ema


def load_tensors(network: nn.Module, state: State, what: str) -> None:
    """Load tensors into a network on torch's `meta` device. Raises InputError unless they match it exactly."""
    check_tensors(network.state_dict(), state, what)
    network.load_state_dict(state, assign=True)


def check_tensors(expected: Mapping[str, Tensor], state: State, what: str) -> None:
    """Raise InputError, starting with `what`, unless names, shapes and dtypes of `state` are those expected."""
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    for names, problem in ((missing, "is missing"), (unknown, "does not belong to the network")):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{what}: tensor {names[0]} (biggan's name) {problem}{more}; give all files of one run")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, not {list(expected[name].shape)}"
            raise InputError(f"{what}: tensor {name} (biggan's name) has the shape {shapes}; give files of one run")
        if tensor.dtype != expected[name].dtype:
            dtypes = f"{tensor.dtype}, not {expected[name].dtype}"
            raise InputError(f"{what}: tensor {name} (biggan's name) has the dtype {dtypes}; save it as such")


def _moments(network: nn.Module) -> dict[str, Tensor]:
    """Return tensors with the names and shapes of Adam's state of a network."""
    step = torch.zeros(())
    named = list(network.named_parameters())
    return {f"{n}/step": step for n, _ in named} | {f"{n}/{key}": p for n, p in named for key in MOMENTS}


def class_names(count: int, dataset: Dataset | None, file: Path | None) -> tuple[str, ...]:
    """Return the class names of the data set, or the lines of a file, or else the class numbers.

    Raises InputError, naming the flag, unless there are `count` different names.
    """
    if dataset is not None and file is not None:
        raise InputError("--classes: the data set of --data has class names; leave out one of the two")
    if dataset is not None:
        flag, names = "--data", dataset.classes
    elif file is not None:
        flag, names = "--classes", _lines(file)
    else:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise InputError(f"{flag}: {len(names)} names, but the networks have {count} classes; give one name per class")
    if len(set(names)) != count:
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{flag}: '{repeated}' occurs twice; give each class a different name")
    return names


def _lines(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"--classes: {file}: cannot be read ({reason}); give a text file, one name per line") from None
    return tuple(line.strip() for line in lines if line.strip())
