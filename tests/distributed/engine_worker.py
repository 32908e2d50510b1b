"""Run under torchrun: train every engine, precision and accumulation on random images; write the final states.

engine_worker.py PRESET OUT [key.sub=value ...]
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from runs import TINY

from biggan.config.interventions import in_force
from biggan.config.preset import resolve
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import join
from biggan.random import keyed_generator
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.state import host_copy, trained_tensors
from biggan.training.step import train_step, update_discriminator, update_generator

ENGINES = {
    "ddp": ["distributed.engine=ddp"],
    "zero-1": ["distributed.engine=deepspeed", "distributed.zero_stage=1"],
    "zero-2": ["distributed.engine=deepspeed", "distributed.zero_stage=2"],
}
STEPS = 2
MAX_GRAD_NORM = 0.5
CASES = [
    ("float32", 1, 0.0),
    ("float32", 1, MAX_GRAD_NORM),
    ("float32", 2, 0.0),
    ("float32", 2, MAX_GRAD_NORM),
    ("bfloat16", 1, 0.0),
    ("bfloat16", 2, 0.0),
]
"""Precision, accumulation and clipping. Clipping of bfloat16 uses the same code and would double the time."""
APART = "ddp, weights apart"
"""DDP as users run it. In the case "ddp" weights have ZeRO's memory layout, see `flatten_memory`."""
ACCUMULATING = [CASES[2], CASES[5]]
"""Cases for interventions, which are loss terms or follow the update; two are enough."""


def flatten_memory(network):
    """Move the weights into one contiguous buffer, as ZeRO does.

    The memory alignment of a weight decides how a kernel splits its sums, which changes the last bit.
    """
    parameters = list(network.parameters())
    flat, offset = torch.cat([p.data.flatten() for p in parameters]), 0
    for p in parameters:
        p.data = flat[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()


def flat_engine(config, name, network, *others):
    if config.distributed.engine == "ddp":
        flatten_memory(network)
    return usual_engine(config, name, network, *others)


usual_engine = build.engine


def real_batches(config, process, step):
    """Yield this rank's slice of random global batches, endlessly."""
    size = config.micro_batch_size // process.world_size
    mine = slice(process.rank * size, (process.rank + 1) * size)
    random = keyed_generator("real", step)
    while True:
        x = torch.rand(config.micro_batch_size, 3, 32, 32, generator=random) * 2 - 1
        y = torch.randint(10, (config.micro_batch_size,), generator=random)
        yield x[mine], y[mine]


def d_state(gan):
    weights = {f"weight {k}": v.clone() for k, v in gan.discriminator.module.named_parameters()}
    return weights | {f"adam {k}": v.clone() for k, v in gan.discriminator.optimizer_state()}


def assert_g_step_leaves_d_alone(gan, config, process, draws, recipe):
    """Check that D's weights and Adam state are unchanged and no gradient is left: a zero loss gives zero gradients."""
    update_discriminator(gan, real_batches(config, process, 0), draws(1, 0), recipe.d_turn(1, 0))
    before = d_state(gan)
    update_generator(gan, None, draws(1, 1), recipe.g_turn(1))
    after = d_state(gan)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None and p.requires_grad for p in gan.discriminator.module.parameters())
    x, y = next(real_batches(config, process, 1))
    D = gan.discriminator
    with D.micro_step(last=True):
        D.backward(D(x, y).sum() * 0)
    D.step()
    # beta1 is 0: exp_avg is the last gradient.
    assert all(not value.any() for key, value in D.optimizer_state() if key.endswith("exp_avg"))


def assert_frozen_d_is_unchanged(gan, config, process, draws, recipe):
    """Check that update=False keeps D's weights and Adam state, and that a learning rate of 0 keeps its weights."""
    before, turn = d_state(gan), recipe.d_turn(1, 0)
    stats = update_discriminator(gan, real_batches(config, process, 0), draws(1, 0), replace(turn, update=False))
    assert stats["d_grad_norm"] > 0
    after = d_state(gan)
    assert all(torch.equal(before[k], after[k]) for k in before)
    still = replace(turn, adam=replace(turn.adam, lr=0.0), constraints=())
    update_discriminator(gan, real_batches(config, process, 0), draws(1, 0), still)
    after = d_state(gan)
    assert all(torch.equal(before[k], after[k]) == k.startswith("weight ") for k in before if "exp_avg" not in k)


def trained(config, process):
    """Train one update of D and STEPS steps; return the state, that update's gradients and each step's norms.

    Also check that the G step and frozen updates leave D unchanged.
    """
    gan, draws = build.gan(config, process, FiniteGuard(process.device)), build.draws(config, process)
    recipe = compose(in_force(config), gan, build.autocast(config, process.device))
    update_discriminator(gan, real_batches(config, process, 0), draws(1, 0), recipe.d_turn(1, 0))
    # beta1 is 0: exp_avg is the last gradient.
    gradients = {f"gradient/{k}": host_copy(v) for k, v in gan.discriminator.optimizer_state() if k.endswith("exp_avg")}
    norms = []
    for step in range(1, STEPS + 1):
        stats = train_step(gan, step, real_batches(config, process, step), draws, recipe)
        norms.append(torch.stack([stats["d_grad_norm"], stats["g_grad_norm"]]))
    tensors = trained_tensors(gan)
    end = {f"{file}/{k}": host_copy(v) for file, named in tensors.items() for k, v in named}
    assert_g_step_leaves_d_alone(gan, config, process, draws, recipe)
    assert_frozen_d_is_unchanged(gan, config, process, draws, recipe)
    return end | gradients | {"norms": torch.stack(norms)}


def main(preset, out, *overrides):
    fixed = [f"run.dir={out}", "data.path=none", "training.batch_size=24", "optimizer.g_lr=5e-5"]
    with join(120) as process:
        ends = {}
        for precision, accumulation, max_grad_norm in CASES if not overrides else ACCUMULATING:
            once = accumulation == 1 and not max_grad_norm
            for name, engine in (ENGINES | ({APART: ENGINES["ddp"]} if once else {})).items():
                build.engine = usual_engine if name == APART else flat_engine
                arithmetic = [f"training.precision={precision}", f"training.accumulation={accumulation}"]
                clipping = f"optimizer.max_grad_norm={max_grad_norm}"
                config = resolve(Path(preset), [*arithmetic, clipping, *fixed, *engine, *overrides])
                end = trained(config, process)
                assert end["norms"].min() > MAX_GRAD_NORM, "nothing to clip"
                ends[precision, accumulation, max_grad_norm, name] = end
        assert all(
            torch.equal(a, b)
            for end in process.gather(ends)
            for key in ends
            for a, b in zip(ends[key].values(), end[key].values(), strict=True)
        ), "processes differ"
        if process.is_main:
            torch.save(ends, out)


if __name__ == "__main__":
    preset = Path(sys.argv[1])
    preset.write_text(TINY)
    main(preset, *sys.argv[2:])
