"""Running the program as users do, in processes of its own: alone or under torchrun."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from warm import Command

from biggan.data.pack import Plan, start_packing
from biggan.data.sources.selection import SelectionRequest

TINY = """
data: {streams: 6, workers: 1, shuffle_buffer: 40, horizontal_flip: true}
model:
  {resolution: 32, channels: 2, classes: 10, z_dim: 8, class_embedding_dim: 4, g_attention: [16], d_attention: [16]}
training: {steps: 6, batch_size: 12, d_steps: 2, log_every_steps: 1}
optimizer: {g_lr: 2e-4, d_lr: 2e-4, eps: 1e-6}
objective: {orthogonal: 1e-4}
ema: {decay: 0.9}
checkpoint: {every_steps: 3, keep_last: 3}
samples: {every_steps: 1000, per_class: 1}
tracking: {mlflow: false}
"""

MOST_SECONDS = 300
"""No command of a test takes a quarter of it, so that one that hangs is found on any machine."""

INTERVENTIONS = [
    "intervention.objective.r1.gamma=1.0",
    "intervention.objective.r1.every_d_steps=2",
    "intervention.objective.spectral.penalty=1.0",
    "intervention.objective.spectral.clamp=true",
    "intervention.objective.spectral.ratio=1.2",
    "model.initialization=normal",  # orthogonal weights have no largest singular value to agree on
    "intervention.objective.spectral.layers=['G.linear','D.*']",
]


def pack_digits(dest: Path, **settings) -> None:
    plan = Plan(SelectionRequest(("digits",)), **{"resolution": 32, "shards": 12} | settings)
    start_packing(plan, dest).run(workers=1, on_shard=lambda _: None)


def command(arguments: list[str], processes: int = 1) -> list[str]:
    """`biggan ARGUMENTS` in an interpreter of its own, or in several under torchrun: for tests about starting."""
    if processes == 1:
        return [sys.executable, "-m", "biggan", *arguments]
    return [*torchrun(processes), "-m", "biggan", *arguments]


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(
    arguments: Sequence[object],
    processes: int | None = 1,
    *,
    program: Path | str = "biggan",
    merge: bool = True,
    max_restarts: int = 0,
    **variables: str,
) -> Command:
    """Start `biggan`, or a script, in a session of its own: a fork of an interpreter that has imported it.

    With more than one process, or a script on any number but None, torchrun's agent starts them. `variables` are
    environment variables.
    """
    alone = processes is None or (processes == 1 and program == "biggan")
    request = {
        "program": str(program),
        "arguments": [str(argument) for argument in arguments],
        "processes": None if alone else processes,
        "max_restarts": max_restarts,
        "cwd": os.getcwd(),
        "environment": environment() | variables,
    }
    return Command(request, merge)


def finish(arguments: Sequence[object], processes: int | None = 1, **options) -> subprocess.CompletedProcess[str]:
    """Start it as `start` does, and wait for its end and its children's."""
    job = start(arguments, processes, merge=False, **options)
    stdout, stderr = job.communicate(timeout=MOST_SECONDS)
    return subprocess.CompletedProcess(arguments, job.returncode, stdout, stderr)


def biggan(arguments: Sequence[object], processes: int = 1, expect: int = 0) -> str:
    """Run the command to its end, check its exit code, return what it printed."""
    done = finish(arguments, processes)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_worker(script: Path, processes: int, *arguments: object) -> str:
    """Run a script under torchrun to its end, check that no process failed, return what it printed."""
    done = finish(arguments, processes, program=script)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(event: Callable[[], bool], process: Command, seconds_between: float = 0.01) -> None:
    """Wait until something has happened; fail if the process ends before, or if it takes implausibly long."""
    until = time.monotonic() + MOST_SECONDS
    while not event():
        if process.poll() is not None:
            raise AssertionError(f"it ended with {process.returncode} before: {process.communicate()}")
        assert time.monotonic() < until, "it never happened"
        time.sleep(seconds_between)


def weights(checkpoint: Path) -> dict:
    """Every tensor of a checkpoint, as FILE/NAME."""
    return {f"{f.stem}/{k}": v for f in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(f).items()}


WITHOUT_GRADIENT = re.compile(r"^(generator|ema|g_optimizer)/(linear|blocks.*conv.*)\.bias(/|$)|running_|\.u$")
"""Biases before a BatchNorm, whose rounding errors Adam (beta1 = 0) takes for gradients, and what follows from weights.

Such a bias moves by the learning rate, in a direction that depends on the kernels.
"""


DRIFT32 = 3e-6
"""Mean difference of weights after a few float32 steps in which G's learning rate is 5e-5 and D's 2e-4.

Sums in another order differ by 1e-7, and Adam divides that by gradients: 1e-8 was the most. Another batch, or an update
more, gives about a learning rate a step.
"""


def mean_difference(a: dict, b: dict, file: str) -> float:
    """Return the mean absolute difference of a network's weights, but for WITHOUT_GRADIENT."""
    keys = [k for k in a if k.startswith(f"{file}/") and not WITHOUT_GRADIENT.search(k)]
    return torch.cat([(a[k] - b[k]).abs().flatten() for k in keys]).mean().item()


def assert_near(a: dict, b: dict, mean: float) -> None:
    """Weights differ by at most `mean` on average; those of WITHOUT_GRADIENT are not compared."""
    assert a.keys() == b.keys()
    for file in ("generator", "discriminator", "ema"):
        off = mean_difference(a, b, file)
        print(f"{file}: {off:.1e}, at most {mean:.1e}")
        assert off <= mean, f"{file}: {off}"
