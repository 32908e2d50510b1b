"""Fixtures: a small real data set, and the tiny runs trained on it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fcntl
import hashlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import TINY, pack_digits
from runs import biggan as run_biggan

from biggan import cli
from biggan.stop_signals import STOP_SIGNALS

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Restore the handlers that a command leaves behind which a test runs in its own process."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all workers of pytest-xdist: `once(name, make)`. Tests only read it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each worker has a folder in it

    def folder(name, make):
        path, made = root / name, root / f"{name}.made"
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                make(path)
                made.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def digits(once) -> Path:
    """scikit-learn's digits, packed at 32 px into 12 shards."""
    return once("digits", pack_digits)


@pytest.fixture(scope="session")
def undisturbed(once, digits) -> Callable[..., Path]:
    """Return the folder of a run of TINY with these overrides that nothing interrupted. Each is trained once."""

    def run(*overrides: str, processes: int = 1) -> Path:
        def train(folder):
            folder.mkdir()
            (folder / "tiny.yaml").write_text(TINY)
            places = [f"run.dir={folder / 'run'}", f"data.path={digits}"]
            run_biggan(["train", folder / "tiny.yaml", *places, *overrides], processes)

        key = hashlib.sha256(repr((processes, overrides)).encode()).hexdigest()[:12]
        return once(f"run-{key}", train) / "run"

    return run


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
