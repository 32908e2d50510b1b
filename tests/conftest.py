"""Fixtures: a small real data set, and the tiny runs trained on it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from runs import TINY, pack_digits

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """scikit-learn's digits, packed at 32 px into 12 shards."""
    dest = tmp_path_factory.mktemp("data") / "digits"
    pack_digits(dest)
    return dest


@pytest.fixture
def tiny(tmp_path, digits) -> list[str]:
    """Arguments of `biggan train` for a run of seconds in tmp_path/run."""
    preset = tmp_path / "tiny.yaml"
    preset.write_text(TINY)
    return [str(preset), f"run.dir={tmp_path / 'run'}", f"data.path={digits}"]
