"""An importer's own check: every tensor used, of the right shape, and networks that run."""

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


def check_data(dataset: Dataset, networks: Architecture) -> None:
    """Raise InputError if the networks cannot go on with a data set."""
    wanted, packed = (networks.resolution, networks.image_channels), (dataset.resolution, dataset.channels)
    if wanted != packed:
        asked, there = (f"{'grey' if channels == 1 else 'RGB'} images of {px} px" for px, channels in (wanted, packed))
        raise InputError(f"--data: the data set has {there}, but the networks are of {asked}; pack such a one")


@torch.no_grad()
def checked_generator(found: ImportedCheckpoint, source: Path) -> Generator:
    """The average in evaluation mode, of tensors that are all there and fit, whose images are finite as D's logits are.

    Raises InputError, one line that names the tensor, if anything of `found` is otherwise.
    """
    ema, discriminator = meta_networks(found.networks)
    generator = meta_networks(found.networks)[0]
    fill(ema, found.ema, f"{source}: the averaged generator")
    z, y = torch.zeros(2, ema.z_dim), torch.arange(2) % ema.classes
    images = ema.eval()(z, y)
    outputs = {"the averaged generator": images}
    if found.generator is not None and found.discriminator is not None:
        fill(generator, found.generator, f"{source}: the generator")
        fill(discriminator, found.discriminator, f"{source}: the discriminator")
        outputs |= {"the generator": generator.eval()(z, y), "the discriminator": discriminator.eval()(images, y)}
        for network, optimizer, what in (
            (generator, found.g_optimizer, "the generator's optimizer"),
            (discriminator, found.d_optimizer, "the discriminator's optimizer"),
        ):
            check_like(_moments(network) if optimizer else {}, optimizer, f"{source}: {what}")
    for what, output in outputs.items():
        if not output.isfinite().all():
            raise InputError(f"{source}: {what} gives values that are not finite; its run had diverged")
    return ema


def fill(network: nn.Module, state: State, what: str) -> None:
    """Give a network on torch's `meta` device its tensors; raises InputError unless they are its own."""
    check_like(network.state_dict(), state, what)
    network.load_state_dict(state, assign=True)


def check_like(expected: Mapping[str, Tensor], found: State, what: str) -> None:
    """Raise InputError, which begins with `what`, unless names, shapes and dtypes are those expected."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    for names, why in ((missing, "is missing"), (unknown, "is not one of the network's")):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{what}: tensor {names[0]} {why}{more} (under our names); give the whole of one run")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, not {list(expected[name].shape)}"
            raise InputError(f"{what}: tensor {name} has the shape {shapes} (under our names)")
        if tensor.dtype != expected[name].dtype:
            raise InputError(
                f"{what}: tensor {name} is of {tensor.dtype}, not {expected[name].dtype} (under our names)"
            )


def _moments(network: nn.Module) -> dict[str, Tensor]:
    """What Adam's state has of each parameter."""
    step = torch.zeros(())
    named = list(network.named_parameters())
    return {f"{n}/step": step for n, _ in named} | {f"{n}/{key}": p for n, p in named for key in MOMENTS}


def class_names(count: int, dataset: Dataset | None, file: Path | None) -> tuple[str, ...]:
    """The data set's, or the lines of a file; without either, their numbers.

    Raises InputError, which names the flag, unless they are `count` different ones.
    """
    if dataset is not None and file is not None:
        raise InputError("--classes: the data set names them already; leave it out, or --data")
    if dataset is not None:
        flag, names = "--data", dataset.classes
    elif file is not None:
        flag, names = "--classes", _lines(file)
    else:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise InputError(f"{flag}: names {len(names)} classes, the networks have {count}; give those they learned")
    if len(set(names)) != count:
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{flag}: '{twice}' is there twice; each class needs a name of its own")
    return names


def _lines(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"--classes: {file}: cannot be read ({reason}); give a text file, a name a line") from None
    return tuple(line.strip() for line in lines if line.strip())
