"""The networks and the training step follow the reference implementation (docs/training.md, "Provenance")."""

import json
from pathlib import Path

import pytest
import torch
from golden.reference import max_abs_diff, mean_abs_diff, our_state
from safetensors.torch import load_file

from biggan.distributed.engine import AdamSettings, DDPEngine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.models.architecture import Architecture
from biggan.objectives.losses import HINGE, Loss
from biggan.training.ema import Ema
from biggan.training.step import Gan, Recipe, train_step

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


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_forward_matches_the_reference(name):
    settings, tensors = load(name)
    G, D = (network.eval() for network in networks(settings, tensors))
    with torch.no_grad():
        images = G(tensors["probe.z"], tensors["probe.y"])
        logits = D(tensors["probe.x"], tensors["probe.y"])
    assert max_abs_diff(images, tensors["probe.G_eval"]) <= 1e-5
    assert max_abs_diff(logits, tensors["probe.D_eval"].squeeze(1)) <= 1e-5
    for network, prefix in ((G, "init.G"), (D, "init.D")):
        for key, value in our_state(tensors, prefix).items():
            assert torch.equal(network.state_dict()[key], value), f"evaluation changed {key}"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NAMES)
def test_training_trajectory_matches_the_reference(name, memory_format):
    settings, tensors = load(name)
    accumulation = settings["num_D_accumulations"]
    assert sum(p.numel() for p in networks(settings, tensors)[0].parameters()) == settings["G_params"]
    loss, seen = record_losses()
    gan = train(settings, tensors, memory_format, loss)
    for network, prefix in (
        (gan.generator.module, "final.G"),
        (gan.discriminator.module, "final.D"),
        (gan.ema.module, "final.G_ema"),
    ):
        theirs = our_state(tensors, prefix)
        parameters = dict(network.named_parameters())
        assert mean_abs_diff(parameters, {k: theirs[k] for k in parameters}) <= 3e-6, prefix
        if prefix != "final.G_ema":
            buffers = dict(network.named_buffers())
            assert mean_abs_diff(buffers, {k: theirs[k] for k in buffers}) <= 1e-5, prefix
    # The reference logs the last micro-batch alone, and divides only G's by the number of micro-batches.
    last_g = seen["g"][accumulation - 1 :: accumulation]
    last_d = seen["d"][settings["num_D_steps"] * accumulation - 1 :: settings["num_D_steps"] * accumulation]
    for g, (real, fake), theirs in zip(last_g, last_d, settings["losses"], strict=True):
        expected = [theirs["G_loss"] * accumulation, theirs["D_loss_real"], theirs["D_loss_fake"]]
        assert [g, real, fake] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def record_losses():
    """The hinge loss, and where it writes the value of every micro-batch's losses, in order."""
    seen = {"d": [], "g": []}

    def discriminator(real, fake):
        losses = HINGE.discriminator(real, fake)
        seen["d"].append([loss.item() for loss in losses])
        return losses

    def generator(fake):
        loss = HINGE.generator(fake)
        seen["g"].append(loss.item())
        return loss

    return Loss(discriminator, generator), seen


def train(settings, tensors, memory_format, loss):
    """Run the recorded steps on the recorded inputs."""
    process = Process(0, 1, CPU, None)
    guard = FiniteGuard(CPU)
    G, D = (network.to(memory_format=memory_format) for network in networks(settings, tensors))

    def engine(name, network, lr):
        adam = AdamSettings(lr, (0.0, 0.999), settings["adam_eps"], max_grad_norm=0)
        return DDPEngine(network, name=name, adam=adam, process=process, guard=guard)

    gan = Gan(engine("G", G, settings["G_lr"]), engine("D", D, settings["D_lr"]), Ema(G, settings["ema_decay"], 0))
    accumulation, batch = settings["num_D_accumulations"], settings["batch_size"]
    recipe = Recipe(
        d_steps=settings["num_D_steps"],
        accumulation=accumulation,
        orthogonal=settings["G_ortho"] / 2,  # the reference applies half of the exact gradient
        autocast=torch.autocast("cpu", enabled=False),
        loss=loss,
    )
    for step in range(settings["steps"]):
        x = tensors["train.x"][step].split(batch)
        y = tensors["train.y_real"][step].split(batch)
        z, y_fake = tensors["train.z"][step], tensors["train.y_fake"][step]

        def latents(_step, use, z=z, y_fake=y_fake):
            rows = range(use * accumulation, (use + 1) * accumulation)
            return ((z[k], y_fake[k]) for k in rows)

        train_step(gan, step + 1, zip(x, y, strict=True), latents, recipe)
    return gan
