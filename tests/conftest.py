"""Fixtures: a small real data set, and the tiny runs trained on it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from pathlib import Path

import pytest
import torch
from runs import TINY, pack_digits

from biggan import cli

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


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run a command in this process: (exit code, output)."""

    def started(*arguments):
        monkeypatch.setattr(sys, "argv", ["biggan", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return started
