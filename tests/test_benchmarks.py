"""Every benchmark can be imported, and the figures that `make demo` prints can be computed for a run."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_benchmark_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module(script)


@pytest.mark.slow
def test_digits_quality_of_an_untrained_run_is_low(undisturbed, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    figures = importlib.import_module("digits_quality").quality(undisturbed("training.steps=3"), per_class=20)
    assert 0 <= figures["worst_class_accuracy"] <= figures["accuracy"] < 0.5
    assert 0 <= figures["worst_class_diversity"] <= figures["diversity"] < 1
