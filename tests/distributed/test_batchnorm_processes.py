from pathlib import Path

import pytest
from runs import run_worker

WORKER = Path(__file__).with_name("batchnorm_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_equals_whole_batch_float64_batchnorm_forward_and_backward(processes):
    run_worker(WORKER, processes)
