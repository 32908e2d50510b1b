"""Running the program as users do: the command, alone or under torchrun, in processes of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from biggan.data.pack import Plan, start_packing
from biggan.data.sources.selection import SelectionRequest

TINY = """
data: {streams: 6, workers: 1, shuffle_buffer: 40, horizontal_flip: true}
model:
  {resolution: 32, channels: 2, classes: 10, z_dim: 8, class_embedding_dim: 4, g_attention: [16], d_attention: [16]}
training: {steps: 6, batch_size: 12, d_steps: 2, log_every_steps: 1}
optimizer: {g_lr: 2e-4, d_lr: 2e-4, eps: 1e-6}
regularization: {orthogonal: 1e-4}
ema: {decay: 0.9}
checkpoint: {every_steps: 3, keep_last: 3}
samples: {every_steps: 1000, per_class: 1}
tracking: {mlflow: false}
"""

INTERVENTIONS = [
    "intervention.r1_gamma=1.0",
    "intervention.r1_every_d_steps=2",
    "intervention.spectral_penalty=1.0",
    "intervention.spectral_clamp=true",
    "intervention.spectral_ratio=1.2",
    "model.initialization=normal",  # orthogonal weights have no largest singular value to agree on
    "intervention.spectral_layers=['G.linear','D.*']",
]


def pack_digits(dest: Path, **settings) -> None:
    plan = Plan(SelectionRequest(("digits",)), **{"resolution": 32, "shards": 12} | settings)
    start_packing(plan, dest).run(workers=1, on_shard=lambda _: None)


def command(arguments: list[str], processes: int = 1) -> list[str]:
    """`biggan ARGUMENTS` on one process, or on several under torchrun."""
    if processes == 1:
        return [sys.executable, "-m", "biggan", *arguments]
    return [*torchrun(processes), "-m", "biggan", *arguments]


def torchrun(processes: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def biggan(arguments: list[str], processes: int = 1, expect: int = 0) -> str:
    """Run the command to its end, check its exit code, return what it printed."""
    done = subprocess.run(
        command(arguments, processes), capture_output=True, text=True, env=environment(), timeout=900, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(arguments: list[str], processes: int = 1) -> subprocess.Popen:
    """Start the command in a session of its own, so that a kill reaches all its processes."""
    return subprocess.Popen(
        command(arguments, processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def weights(checkpoint: Path) -> dict:
    """Every tensor of a checkpoint, as FILE/NAME."""
    return {f"{f.stem}/{k}": v for f in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(f).items()}


def assert_near(a: dict, b: dict, mean: float) -> None:
    """Parameters differ by at most `mean` on average; statistics and vectors follow from them, and are not asked."""
    assert a.keys() == b.keys()
    for file in ("generator", "discriminator", "ema"):
        keys = [k for k in a if k.startswith(f"{file}/") and not re.search(r"running_|\.u$", k)]
        off = torch.cat([(a[k] - b[k]).abs().flatten() for k in keys]).mean().item()
        print(f"{file}: {off:.1e}, at most {mean:.1e}")
        assert off <= mean, f"{file}: {off}"
