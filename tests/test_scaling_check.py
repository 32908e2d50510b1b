"""`benchmarks/scaling_model.py check` on planted measurements: it writes its table, and fails where it should."""

import importlib
from pathlib import Path

import pytest

NETWORK = "digits 32 px, ch 16"


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Check a step that takes one process a second alone, and `seconds` as it is measured: the table written."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    scaling_model = importlib.import_module("scaling_model")
    monkeypatch.setattr(scaling_model, "DOCS", tmp_path)

    def checked(seconds):
        measured = {
            "alone": {NETWORK: {"32": [1.0] * 5}},
            "together": {NETWORK: {"1": [seconds] * 5}},
            "work": [[0.01] * 5],
            "collectives": {"2": {"all_reduce": {"64": [1e-3], "4194304": [1e-2]}}},
        }
        monkeypatch.setattr(scaling_model, "measure", lambda processes, rounds: measured)
        scaling_model.check(5)
        return (tmp_path / "scaling-check.md").read_text()

    return checked


def test_a_prediction_within_15_percent_passes(check):
    assert "| +11.1% |" in check(0.9)


def test_one_that_is_further_off_ends_with_exit_code_1_after_the_table(check, tmp_path):
    with pytest.raises(SystemExit, match=f"^off by more than 15%: {NETWORK} on 1: -20.0%$"):  # words: exit code 1
        check(1.25)
    assert "| -20.0% |" in (tmp_path / "scaling-check.md").read_text()
