"""Run under torchrun: print as JSON all collectives of one G iteration and the bytes held afterwards.

traffic_worker.py ZERO_BUCKET_ELEMENTS PRESET [key.sub=value ...]
"""

import itertools
import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from biggan.config.interventions import in_force
from biggan.config.preset import resolve
from biggan.distributed import zero
from biggan.distributed.engine import DDPEngine
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import join
from biggan.startup import build
from biggan.startup.recipe import compose
from biggan.training.step import train_step


class Listener(TorchDispatchMode):
    """Recorder of the calls to the process group, as (operation, bytes of the input)."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if func.namespace in ("c10d", "_c10d_functional") and not name.endswith(
            ("wait_tensor", "_wrap_tensor_autograd")
        ):
            inputs = args[1] if name == "c10d::_allgather_base_" else args[0]
            tensors = [inputs] if isinstance(inputs, torch.Tensor) else inputs
            self.calls.append((name, sum(x.numel() * x.element_size() for x in tensors)))
        return func(*args, **(kwargs or {}))


def held(tensors):
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors if x is not None}
    return sum(storages.values())


def adam(optimizer):
    return held(x for state in optimizer.state.values() for key, x in state.items() if key != "step")


def optimizer(engine):
    """Return the bytes of Adam's moments and of ZeRO's master copy."""
    if isinstance(engine, DDPEngine):
        return adam(engine._optimizer)
    return held([engine._flat]) + adam(engine._adam)


def step(process, bucket, preset, *overrides):
    zero.BUCKET_ELEMENTS = int(bucket)
    config = resolve(Path(preset), list(overrides))
    gan = build.gan(config, process, FiniteGuard(process.device))
    draws = build.draws(config, process)
    recipe = compose(in_force(config), gan, build.autocast(config, process.device))
    share = config.micro_batch_size // process.world_size
    real = itertools.repeat((torch.rand(share, 3, 32, 32), torch.zeros(share, dtype=torch.long)))
    engines = (gan.generator, gan.discriminator)
    gradients = []
    for engine in engines:
        step = engine.step

        def noted(update, e=engine, s=step):
            gradients.append(held(p.grad for p in e.module.parameters()))
            return s(update)

        engine.step = noted
    for step in (1, 2):  # DDP arranges its buckets in the first step
        train_step(gan, step, real, draws, recipe)
    with Listener() as listener:
        process.any(False)
        train_step(gan, 3, real, draws, recipe)
    return {
        "collectives": listener.calls,
        "weights": sum(held(e.module.parameters()) for e in engines),
        "gradients": sum(gradients[-2:]),
        "optimizer": sum(optimizer(e) for e in engines),
        "ema": held(gan.ema.module.parameters()),
    }


if __name__ == "__main__":
    with join(60) as process:
        result = step(process, *sys.argv[1:])
        if process.is_main:
            sys.stdout.write(json.dumps(result) + "\n")
