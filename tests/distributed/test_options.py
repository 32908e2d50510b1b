"""Settings that must not change the training trajectory, and one that must."""

import pytest
import torch
from runs import DRIFT32, finish, mean_difference, weights

COMPILES_WITHOUT_INDUCTOR = """
import torch
from biggan.cli import main
plain, compiled = torch.compile, []

def compile(*arguments, **options):
    compiled.append(plain(*arguments, **options, backend="aot_eager"))
    return compiled[-1]

torch.compile = compile
if __name__ == "__main__":
    try:
        main()
    finally:
        print(len(compiled), "networks compiled")
"""


@pytest.fixture
def end_of(undisturbed):
    def end(*overrides, processes=1):
        (checkpoint,) = (undisturbed(*overrides, processes=processes) / "checkpoints").iterdir()
        return weights(checkpoint)

    return end


@pytest.mark.long
def test_compiled_networks_have_the_eager_trajectory(end_of, tiny, tmp_path):
    """Captured, with their backward passes, but run without kernels of inductor's, which take minutes to compile.

    tests/models/test_compiled.py has these for one block of each network, batchnorm_worker.py for two processes.
    """
    small = ["training.steps=1", "model.channels=4", "optimizer.g_lr=5e-5"]
    script = tmp_path / "captured.py"
    script.write_text(COMPILES_WITHOUT_INDUCTOR)
    done = finish(["train", *tiny, *small, "training.compile=true"], None, program=script)
    assert done.returncode == 0, done.stderr
    assert "2 networks compiled" in done.stdout
    eager, compiled = end_of(*small), weights(tmp_path / "run/checkpoints/step_00000001")
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
