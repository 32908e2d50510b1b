"""Settings that must not change the training trajectory, and one that must."""

import pytest
import torch
from runs import biggan, weights


def end_of(run, tiny, digits, *overrides, processes=1):
    biggan(["train", tiny[0], f"run.dir={run}", f"data.path={digits}", *overrides], processes)
    (checkpoint,) = (run / "checkpoints").iterdir()
    return weights(checkpoint)


def mean_difference(a, b, file):
    return torch.cat([(a[k] - b[k]).abs().flatten() for k in a if k.startswith(file)]).mean().item()


@pytest.mark.long
def test_compiled_networks_have_the_eager_trajectory(tiny, digits, tmp_path):
    small = ["training.steps=1", "model.channels=4", "optimizer.g_lr=5e-5"]
    eager = end_of(tmp_path / "eager", tiny, digits, *small)
    compiled = end_of(tmp_path / "compiled", tiny, digits, *small, "training.compile=true")
    assert mean_difference(eager, compiled, "generator") <= 3e-6
    assert mean_difference(eager, compiled, "discriminator") <= 3e-6


@pytest.mark.slow
def test_batchnorm_groups_of_one_process_use_their_own_shard(tiny, digits, tmp_path):
    steps = ["training.steps=1"]
    together = end_of(tmp_path / "together", tiny, digits, *steps, processes=2)
    apart = end_of(tmp_path / "apart", tiny, digits, *steps, "distributed.batchnorm_group_size=1", processes=2)
    assert mean_difference(together, apart, "generator") > 1e-5


@pytest.mark.slow
def test_readers_and_memory_format_do_not_change_the_trajectory(tiny, digits, tmp_path):
    steps = ["training.steps=2", "optimizer.g_lr=5e-5"]
    plain = end_of(tmp_path / "plain", tiny, digits, *steps)
    readers = end_of(tmp_path / "readers", tiny, digits, *steps, "data.workers=3")
    assert all(torch.equal(plain[k], readers[k]) for k in plain)
    contiguous = end_of(tmp_path / "contiguous", tiny, digits, *steps, "training.channels_last=false")
    assert mean_difference(plain, contiguous, "generator") <= 3e-6
