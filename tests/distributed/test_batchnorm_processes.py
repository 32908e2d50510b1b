import subprocess
from pathlib import Path

import pytest
from runs import environment, torchrun

WORKER = Path(__file__).with_name("batchnorm_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_equals_whole_batch_float64_batchnorm_forward_and_backward(processes):
    done = subprocess.run(
        [*torchrun(processes), str(WORKER)], capture_output=True, text=True, env=environment(), timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
