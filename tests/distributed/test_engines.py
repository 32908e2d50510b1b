"""DeepSpeed's ZeRO trains as DDP does, and a run moves between engines and numbers of processes."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from runs import biggan, command, environment, torchrun, weights

WORKER = Path(__file__).with_name("engine_worker.py")
ZERO = "distributed.engine=deepspeed"
WITHOUT_GRADIENT = re.compile(r"^(generator|ema)/(linear|blocks.*conv.*)\.bias$|running_|\.u$")
"""Biases before a BatchNorm, whose rounding errors Adam (beta1 = 0) takes for gradients, and what follows from them."""
KEEPS_NAMES = r"""
import os
from biggan.cli import main
from biggan.data.loader import Loader

plain = Loader.__next__

def recorded(self):
    batch = plain(self)
    with open(os.environ["NAMES"] + os.environ.get("RANK", "0"), "a") as file:
        file.write(" ".join(self.names) + "\n")
    return batch

Loader.__next__ = recorded
if __name__ == "__main__":
    main()
"""


def mean_difference(a, b, file):
    """Of parameters, not of the statistics and vectors that follow from them."""
    keys = [k for k in a if k.startswith(f"{file}/") and not re.search(r"running_|\.u$", k)]
    return torch.cat([(a[k] - b[k]).abs().flatten() for k in keys]).mean().item()


INTERVENTIONS = [
    "intervention.r1_gamma=1.0",
    "intervention.r1_every_d_steps=2",
    "intervention.spectral_penalty=1.0",
    "intervention.spectral_clamp=true",
    "intervention.spectral_ratio=1.2",
    "model.initialization=normal",  # orthogonal weights have no largest singular value to agree on
    "intervention.spectral_layers=['G.linear','D.*']",
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], INTERVENTIONS], ids=["plain", "interventions"])
def test_zero_walks_ddps_path_in_both_precisions_and_with_accumulation(tmp_path, overrides):
    """The worker also asserts, for each engine, what leaves D and its Adam alone."""
    out = tmp_path / "ends.pt"
    arguments = [*torchrun(2), str(WORKER), str(tmp_path / "preset.yaml"), str(out), *overrides]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ends = torch.load(out, weights_only=True)
    assert len(ends) == (6 if overrides else 18)
    for key, end in ends.items():
        _, accumulation, max_grad_norm, _ = key
        ddp = ends[*key[:3], "ddp"]
        assert end.keys() == ddp.keys()
        # Adam with beta1 = 0 hides a gradient's scale: the norms do not.
        torch.testing.assert_close(end["norms"], ddp["norms"], rtol=1e-5, atol=0, msg=lambda m, k=key: f"{k}: {m}")
        for name in end.keys() - {"norms"}:
            if not name.split("/")[0].endswith("optimizer") and not WITHOUT_GRADIENT.search(name):
                assert (end[name] - ddp[name]).abs().mean() <= 1e-6, f"{key}: {name}"
            # With accumulation, stage 2 sums micro-batches after the processes, and norms (for clipping) are float64's.
            # Adam's vector kernel rounds the end of a tensor differently, and that is elsewhere in ZeRO's flat slices:
            # plain gradients happen not to meet it.
            if name.startswith("discriminator/") and accumulation == 1 and not max_grad_norm and not overrides:
                assert torch.equal(end[name], ddp[name]), f"{key}: {name}"


def train_keeping_names(preset, digits, run, processes, names, *overrides):
    """Train; return the sample names of every global batch, in order."""
    script = run.parent / "keeps_names.py"
    script.write_text(KEEPS_NAMES)
    names.mkdir()
    plain = command(["train", str(preset), f"run.dir={run}", f"data.path={digits}", *overrides], processes)
    at = len(plain) - 1 - plain[::-1].index("-m")
    done = subprocess.run(
        [*plain[:at], str(script), *plain[at + 2 :]],
        capture_output=True,
        text=True,
        env=environment() | {"NAMES": f"{names}{os.sep}"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [(names / str(rank)).read_text().splitlines() for rank in range(processes)]
    return [" ".join(parts) for parts in zip(*ranks, strict=True)]


@pytest.mark.long
def test_a_run_moves_between_engines_and_numbers_of_processes_and_skips_no_sample(tiny, digits, tmp_path):
    fixed = ["data.streams=12", "model.channels=4", "optimizer.g_lr=5e-5", "checkpoint.keep_last=9"]
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    expected = train_keeping_names(tiny[0], digits, whole, 1, tmp_path / "names", *fixed, "training.steps=8")
    moves = [(4, []), (2, [ZERO, "distributed.zero_stage=2"]), (1, [ZERO]), (3, [ZERO])]
    seen = []
    for leg, (processes, engine) in enumerate(moves):
        changes = [*fixed, *engine, f"training.steps={2 * leg + 2}"]
        seen += train_keeping_names(tiny[0], digits, moved, processes, tmp_path / f"names{leg}", *changes)
    assert seen == expected
    assert len(set(" ".join(seen).split())) == 8 * 2 * 12, "within the first epoch nothing is seen twice"
    ends = [run / "checkpoints/step_00000008" for run in (whole, moved)]
    assert len({json.dumps(json.loads((end / "state.json").read_text())) for end in ends}) == 1
    a, b = (weights(end) for end in ends)
    assert a.keys() == b.keys()
    for file in ("generator", "discriminator", "ema"):
        assert mean_difference(a, b, file) <= 3e-6, file


@pytest.mark.long
def test_an_interrupted_zero_run_ends_where_the_uninterrupted_one_does(tiny, digits, tmp_path):
    for run, legs in (("whole", [6]), ("resumed", [3, 6])):
        for steps in legs:
            arguments = ["train", tiny[0], f"run.dir={tmp_path / run}", f"data.path={digits}", ZERO]
            biggan([*arguments, "distributed.zero_stage=2", f"training.steps={steps}"], processes=2)
    a, b = (weights(tmp_path / run / "checkpoints/step_00000006") for run in ("whole", "resumed"))
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
