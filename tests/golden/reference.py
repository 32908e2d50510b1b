"""The golden files: their networks, their steps taken again, and how far two tensors are apart."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from biggan.draws import Draw
from biggan.importing import reference
from biggan.models.architecture import Architecture
from biggan.objectives.adversarial import HINGE, LogitLoss
from biggan.training.step import train_step

HERE = Path(__file__).parent
NAMES = ["biggan32", "biggan64", "biggan-deep64"]
CPU = torch.device("cpu")


def load(name):
    settings = json.loads((HERE / f"{name}.json").read_text())
    return settings, load_file(HERE / f"{name}.safetensors")


def networks(settings, tensors):
    def attention(key):
        return tuple(int(r) for r in settings[key].split("_") if int(r))

    architecture = Architecture(
        family=settings["arch"],
        resolution=settings["resolution"],
        image_channels=3,
        channels=settings["G_ch"],
        d_channels=settings["D_ch"],
        depth=settings["G_depth"] if settings["arch"] == "biggan-deep" else 1,
        d_depth=settings["D_depth"] if settings["arch"] == "biggan-deep" else 1,
        classes=settings["n_classes"],
        z_dim=settings["dim_z_effective"],
        class_embedding_dim=settings["shared_dim"] if settings["G_shared"] else 0,
        hierarchical=settings["hier"],
        g_attention=attention("G_attn"),
        d_attention=attention("D_attn"),
        g_spectral_norm=True,
        residual=True,
        d_conv_shortcuts="downsampling",
        sn_eps=settings["SN_eps"],
        bn_eps=settings["BN_eps"],
    )
    G, D = architecture.generator(), architecture.discriminator()
    G.load_state_dict(our_state(tensors, "init.G"))
    D.load_state_dict(our_state(tensors, "init.D"))
    return G, D


def our_state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict of our network from the reference's tensors under `prefix` ("init.G", "final.D", ...)."""
    theirs = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
    return reference.our_state(theirs)


def max_abs_diff(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.numel() else 0.0


def abs_diffs(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    return torch.cat([(ours[k] - theirs[k]).abs().flatten() for k in theirs])


def record_losses():
    """The hinge loss, and where it writes the value of every micro-batch's losses, in order."""
    seen = {"d": [], "g": []}

    def discriminator(real, fake):
        losses = HINGE.d_loss(real, fake)
        seen["d"].append([loss.item() for loss in losses])
        return losses

    def generator(fake):
        loss = HINGE.g_loss(fake)
        seen["g"].append(loss.item())
        return loss

    return LogitLoss(discriminator, generator, HINGE.level), seen


def follow(gan, recipe, settings, tensors):
    """Take the recorded steps, on the recorded inputs."""
    accumulation, batch = recipe.accumulation, settings["batch_size"]
    for step in range(settings["steps"]):
        x = tensors["train.x"][step].split(batch)
        y = tensors["train.y_real"][step].split(batch)
        z, y_fake = tensors["train.z"][step], tensors["train.y_fake"][step]

        def draws(_step, update_index, z=z, y_fake=y_fake):
            rows = range(update_index * accumulation, (update_index + 1) * accumulation)
            return (Draw(z[k], y_fake[k], k == rows[-1], (), batch, slice(batch), None) for k in rows)

        train_step(gan, step + 1, zip(x, y, strict=True), draws, recipe)


TYPICAL_OFF = {"final.G": 3e-7, "final.D": 1e-8, "final.G_ema": 1e-7}
"""Median difference of a parameter: 3e-8, 0 and 8e-9 were the most of any kernels.

The median does not see what rounding may do to few parameters: Adam moves a bias before a BatchNorm, whose gradient is
rounding, by a learning rate, and one ReLU that rounding turns changes the gradient of a tenth of a layer. It does see
the EMA's decay times 0.99 (8e-7), BatchNorm's epsilon times 10 (2e-7 in D), Adam's (2e-8 in D), and, in the deep
network, the orthogonal penalty times 2 (5e-7).
"""
MEAN_OFF = 1e-5
"""Mean difference of parameters: 4e-7 was the most, where a ReLU turned. A learning rate a tenth off gives 2e-5."""
BUFFERS_OFF = 3e-5
"""Mean difference of BatchNorm's statistics and of singular vectors, of size 0.1 to 1: 1.4e-6 was the most."""


def assert_final(gan, tensors):
    """All three networks are where the reference's were after these steps."""
    for network, prefix in (
        (gan.generator.module, "final.G"),
        (gan.discriminator.module, "final.D"),
        (gan.ema.module, "final.G_ema"),
    ):
        theirs = our_state(tensors, prefix)
        parameters = dict(network.named_parameters())
        off = abs_diffs(parameters, {k: theirs[k] for k in parameters})
        assert off.median() <= TYPICAL_OFF[prefix], prefix
        assert off.mean() <= MEAN_OFF, prefix
        if prefix != "final.G_ema":
            buffers = dict(network.named_buffers())
            assert abs_diffs(buffers, {k: theirs[k] for k in buffers}).mean() <= BUFFERS_OFF, prefix
