"""Every benchmark starts, and the figures that `make demo` ends with can be had of a run."""

import importlib
from pathlib import Path

import pytest
from runs import biggan

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("script", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_what_a_benchmark_imports_is_there(script, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module(script)


@pytest.mark.slow
def test_the_digits_of_a_run_that_learned_nothing_are_judged_so(tiny, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    biggan(["train", *tiny, "training.steps=3"])
    found = importlib.import_module("digits_quality").quality(tmp_path / "run", per_class=20)
    assert 0 <= found["worst_class_accuracy"] <= found["accuracy"] < 0.5
    assert 0 <= found["worst_class_diversity"] <= found["diversity"] < 1
