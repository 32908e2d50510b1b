"""The networks and the training step follow the reference implementation (docs/training.md, "Provenance")."""

import pytest
import torch
from bounds import FEW_OPERATIONS32, IMAGES32
from golden.reference import (
    CPU,
    NAMES,
    assert_final,
    follow,
    load,
    max_abs_diff,
    networks,
    our_state,
    record_losses,
)

from biggan.distributed.engine import AdamSettings, DDPEngine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.gan import Ema, Gan
from biggan.objectives.weight_terms import OrthogonalTerm
from biggan.training.turn import NetworkRecipe, Recipe, Scheduled

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_forward_matches_the_reference(name):
    settings, tensors = load(name)
    G, D = (network.eval() for network in networks(settings, tensors))
    with torch.no_grad():
        images = G(tensors["probe.z"], tensors["probe.y"])
        logits = D(tensors["probe.x"], tensors["probe.y"])
    assert max_abs_diff(images, tensors["probe.G_eval"]) <= IMAGES32
    assert max_abs_diff(logits, tensors["probe.D_eval"].squeeze(1)) <= IMAGES32
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
    assert_final(gan, tensors)
    # The reference logs the last micro-batch alone, and divides only G's by the number of micro-batches.
    last_g = seen["g"][accumulation - 1 :: accumulation]
    last_d = seen["d"][settings["num_D_steps"] * accumulation - 1 :: settings["num_D_steps"] * accumulation]
    for g, (real, fake), theirs in zip(last_g, last_d, settings["losses"], strict=True):
        expected = [theirs["G_loss"] * accumulation, theirs["D_loss_real"], theirs["D_loss_fake"]]
        # Means of logits of size 1 in float32, after steps whose weights differ by 1e-7.
        assert [g, real, fake] == pytest.approx(expected, rel=1e-4, abs=FEW_OPERATIONS32)


def train(settings, tensors, memory_format, loss):
    """Run the recorded steps on the recorded inputs."""
    process = Process(0, 1, CPU, None)
    guard = FiniteGuard(CPU)
    G, D = (network.to(memory_format=memory_format) for network in networks(settings, tensors))

    def engine(name, network, lr):
        adam = AdamSettings(lr, (0.0, 0.999), settings["adam_eps"], max_grad_norm=0)
        return DDPEngine(network, name=name, adam=adam, process=process, guard=guard)

    gan = Gan(engine("G", G, settings["G_lr"]), engine("D", D, settings["D_lr"]), Ema(G, settings["ema_decay"], 0))
    orthogonal = settings["G_ortho"] / 2  # the reference applies half of the exact gradient
    recipe = Recipe(
        d_steps=settings["num_D_steps"],
        accumulation=settings["num_D_accumulations"],
        autocast=torch.autocast("cpu", enabled=False),
        adversarial=loss,
        generator=NetworkRecipe(weight_terms=(Scheduled(OrthogonalTerm(), orthogonal),)),
    )
    follow(gan, recipe, settings, tensors)
    return gan
