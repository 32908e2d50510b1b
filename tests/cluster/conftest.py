"""Fixtures of the tests on two hosts and under Slurm."""

import time
from pathlib import Path

import pytest
import torch
from runs import TINY, weights

CADENCE = "checkpoint.every_steps=20"


@pytest.fixture(scope="session")
def preset(tmp_path_factory, digits) -> list[str]:
    """Arguments of a run, without its folder and its length."""
    file = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    file.write_text(TINY)
    return [str(file), f"data.path={digits}", CADENCE]


@pytest.fixture
def assert_same_end(undisturbed):
    """Assert that a run ends with the parameters of two processes on one host, bit for bit."""

    def check(run: Path, steps: int) -> None:
        name = f"checkpoints/step_{steps:08d}"
        whole = undisturbed(CADENCE, f"training.steps={steps}", processes=2)
        expected, actual = weights(whole / name), weights(run / name)
        assert expected.keys() == actual.keys()
        assert not [key for key in expected if not torch.equal(expected[key], actual[key])]

    return check


@pytest.fixture
def wait_for_step():
    """Wait until a run has logged a step."""

    def wait(run: Path, step: int, has_ended) -> None:
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
            assert not has_ended(), "the run ended before it was disturbed"
            time.sleep(0.1)

    return wait
