"""Under torchrun: train every technique on random images, with every engine and precision; write the final states.

technique_worker.py OUT
"""

import sys

import torch
from runs import TINY

from biggan.config.interventions import in_force
from biggan.config.preset import resolve_tree
from biggan.config.yaml_text import load_yaml
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import join
from biggan.random import keyed_generator
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.state import host_copy, trained_tensors
from biggan.training.step import train_step

PLAIN_D = ["model.d_spectral_norm=false"]
GP = [*PLAIN_D, "objective.gradient_penalty.weight=10.0"]
LOSSES = ["non_saturating", "minimax", "least_squares", "wasserstein", "relativistic_average", "relativistic_paired"]
TECHNIQUES: dict[str, list[str]] = {
    "plain": [],
    **{loss: [f"objective.loss={loss}"] for loss in LOSSES},
    "label targets": [
        "objective.loss=non_saturating",
        *("objective.labels.real=0.9", "objective.labels.noise=0.1", "objective.labels.flip=0.2"),
    ],
    "least-squares targets": ["objective.loss=least_squares", "objective.labels.fake=-1.0"],
    "r1": ["objective.r1.gamma=1.0", "objective.r1.every_d_steps=2"],
    "r1 and r2": ["objective.r1.gamma=1.0", "objective.r2.gamma=2.0"],
    "wgan-gp": [*GP, "objective.loss=wasserstein", "model.d_normalization=layer"],
    "gradient penalty of another target": [*GP, "objective.gradient_penalty.target=0.0", "objective.r2.gamma=1.0"],
    "lecam": ["objective.lecam.weight=0.3", "objective.lecam.decay=0.5"],
    "orthogonal": ["objective.orthogonal=0.01"],
    "spectral": [
        *("objective.spectral.penalty=1.0", "objective.spectral.clamp=true", "objective.spectral.ratio=1.2"),
        *("objective.spectral.layers=['G.linear','D.*']", "model.initialization=normal"),
    ],
    "augmentation": ["objective.augment=[color,translation,cutout]", "objective.r1.gamma=1.0"],
    "batch norm in D": [*PLAIN_D, "model.d_normalization=batch"],
    "no spectral norm": PLAIN_D,
    "frozen G": ["training.freeze_g_steps=1"],
    "frozen D": ["training.freeze_d_steps=1"],
    "schedules": [
        "optimizer.g_lr={linear: {0: 0, 4: 1e-4}}",
        "optimizer.beta2={step: {0: 0.9, 2: 0.99}}",
        *("objective.r1.gamma={cosine: {0: 0, 4: 1}}", "objective.orthogonal={linear: {0: 0.1, 4: 0}}"),
    ],
    "intervention": ["intervention.optimizer.g_lr=x0.5", "intervention.objective.r1.gamma=1.0"],
}
ZERO = ["distributed.engine=deepspeed", "distributed.zero_stage=2"]
COLUMNS: dict[str, list[str]] = {
    "ddp": [],
    "zero": ZERO,
    "bfloat16": ["training.precision=bfloat16", "training.accumulation=1"],
}
STEPS = 2
INTERRUPTED = ("plain", "lecam", "schedules")
"""Techniques that are also interrupted under ZeRO: the engine's state is the same for all."""


def configured(technique: str, column: str):
    """Return the config of one technique in one column: two micro-batches of 6 images per update."""
    fixed = ["run.dir=x", "data.path=none", "optimizer.g_lr=5e-5", "data.streams=6"]
    fixed += ["training.accumulation=2", "training.d_steps=1"]
    return resolve_tree(load_yaml(TINY), [*fixed, *COLUMNS[column], *TECHNIQUES[technique]])


def real_batches(config, process, step):
    """Yield this rank's slice of random global batches, endlessly."""
    size = config.micro_batch_size // process.world_size
    mine = slice(process.rank * size, (process.rank + 1) * size)
    random = keyed_generator("real", step)
    while True:
        x = torch.rand(config.micro_batch_size, 3, 32, 32, generator=random) * 2 - 1
        y = torch.randint(10, (config.micro_batch_size,), generator=random)
        yield x[mine], y[mine]


def saved(gan):
    """Return copies of all tensors of a run by file and name. Collective."""
    return {file: {k: host_copy(v) for k, v in named} for file, named in trained_tensors(gan).items()}


def restored(config, process, tensors):
    """Return the networks as a resumed run has them."""
    gan = build.gan(config, process, FiniteGuard(process.device))
    gan.generator.restore(tensors["generator"], tensors["g_optimizer"])
    gan.discriminator.restore(tensors["discriminator"], tensors["d_optimizer"])
    gan.ema.module.load_state_dict(tensors["ema"])
    gan.techniques.load_state_dict(tensors["techniques"])
    return gan


def walk(config, process, *, interrupted=False):
    """Train STEPS steps, from a saved state after each if `interrupted`; return the state and the statistics."""
    gan, rows = build.gan(config, process, FiniteGuard(process.device)), []
    values, draws, autocast = in_force(config), build.draws(config, process), build.autocast(config, process.device)
    recipe = compose(values, gan, autocast)
    for step in range(1, STEPS + 1):
        if interrupted and step > 1:
            gan = restored(config, process, saved(gan))
            recipe = compose(values, gan, autocast)
        rows.append(train_step(gan, step, real_batches(config, process, step), draws, recipe))
    state = {f"{file}/{k}": v for file, named in saved(gan).items() for k, v in named.items()}
    return state, [{name: float(value) for name, value in row.items()} for row in rows]


def main(out: str) -> None:
    """Walk every technique in every column, and interrupted under both engines."""
    with join(120) as process:
        ends = {}
        for technique in TECHNIQUES:
            for column in COLUMNS:
                config = configured(technique, column)
                ends[technique, column] = walk(config, process)[0]
                if column == "zero" and technique in INTERRUPTED:
                    ends[technique, f"{column}, interrupted"] = walk(config, process, interrupted=True)[0]
        if process.is_main:
            torch.save(ends, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
