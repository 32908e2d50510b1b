"""Settings that must not change the training trajectory, and one that must."""

import pytest
import torch
from runs import DRIFT32, mean_difference, weights


@pytest.fixture
def end_of(undisturbed):
    def end(*overrides, processes=1):
        (checkpoint,) = (undisturbed(*overrides, processes=processes) / "checkpoints").iterdir()
        return weights(checkpoint)

    return end


@pytest.mark.long
def test_compiled_networks_have_the_eager_trajectory(end_of):
    small = ["training.steps=1", "model.channels=4", "optimizer.g_lr=5e-5"]
    eager = end_of(*small)
    compiled = end_of(*small, "training.compile=true")
    assert mean_difference(eager, compiled, "generator") <= DRIFT32
    assert mean_difference(eager, compiled, "discriminator") <= DRIFT32


@pytest.mark.slow
def test_batchnorm_groups_of_one_process_use_their_own_shard(end_of):
    together = end_of("training.steps=1", processes=2)
    apart = end_of("training.steps=1", "distributed.batchnorm_group_size=1", processes=2)
    assert mean_difference(together, apart, "generator") > 1e-5


@pytest.mark.slow
def test_readers_and_memory_format_do_not_change_the_trajectory(end_of):
    steps = ["training.steps=2", "optimizer.g_lr=5e-5"]
    plain = end_of(*steps)
    readers = end_of(*steps, "data.workers=3")
    assert all(torch.equal(plain[k], readers[k]) for k in plain)
    contiguous = end_of(*steps, "training.channels_last=false")
    assert mean_difference(plain, contiguous, "generator") <= DRIFT32
