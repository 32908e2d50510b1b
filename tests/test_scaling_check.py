"""`benchmarks/scaling_model.py` on planted measurements: its output and its exit code."""

import importlib
import json
from pathlib import Path

import pytest

from biggan.cost.calibration import read_calibration
from biggan.cost.engine_cost import ENGINES, with_collectives
from biggan.cost.scaling import ASSUMED, Link, predict
from biggan.cost.trace import record

NETWORK = "digits 32 px, ch 16"


def planted(together, **changes):
    """Return measurements of a step that takes 1 s on one process alone."""
    return {
        "alone": {NETWORK: {"32": [1.0] * 5}},
        "together": {NETWORK: {"1": [together] * 5}},
        "work": [[0.01] * 5],
        "collectives": {"2": {"all_reduce": {"64": [1e-3], "4194304": [1e-2]}}},
        "device": "cpu",
    } | changes


@pytest.fixture
def scaling_model(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("scaling_model")


@pytest.fixture
def check(scaling_model, monkeypatch, tmp_path):
    """Run the check on a step measured to take `seconds`. Return the table written."""
    monkeypatch.setattr(scaling_model, "DOCS", tmp_path)

    def checked(seconds):
        monkeypatch.setattr(scaling_model, "measure", lambda processes, rounds: planted(seconds))
        scaling_model.check(5)
        return (tmp_path / "scaling-check.md").read_text()

    return checked


def test_prediction_within_15_percent_passes(check):
    assert "| +11.1% |" in check(0.9)


def test_prediction_further_off_ends_with_exit_code_1_after_the_table(check, tmp_path):
    with pytest.raises(SystemExit, match=f"^.*15%.*{NETWORK} on 1: -20.0%$"):  # a text means exit code 1
        check(1.25)
    assert "| -20.0% |" in (tmp_path / "scaling-check.md").read_text()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("doctor", [False, True])
def test_calibration_predicts_the_step_and_links_it_was_measured_from(
    scaling_model, monkeypatch, tmp_path, device, doctor
):
    process_counts = []

    def measure(processes, rounds):
        process_counts.append(processes)
        return planted(1.0, device=device)

    monkeypatch.setattr(scaling_model, "measure", measure)
    doctor_json = tmp_path / "doctor.json"
    collectives = [{"operation": "all_gather", "bytes": size, "seconds": 1e-3 + 1e-9 * size} for size in (4, 2**20)]
    doctor_json.write_text(
        json.dumps({"world_size": 2, "hosts": ["a", "b"], "collectives": collectives, "backend": "nccl"})
    )
    scaling_model.calibrate(tmp_path / "calibration.json", doctor_json if doctor else None, 2, 5)
    cluster, source = read_calibration(tmp_path / "calibration.json")
    steps = record(scaling_model.check_config(NETWORK), 32).steps
    assert predict(with_collectives(steps, ENGINES[0], 1), cluster, 1, 1).total == pytest.approx(1.0)
    assert source == f"measured, {tmp_path / 'calibration.json'}"
    assert (cluster.cores_per_node is None) == (device == "cuda")
    # The training loop's flag uses gloo, so NCCL's collectives, which the doctor measured here, do not calibrate it.
    measured_gloo = not doctor and device == "cpu"
    assert (cluster.host_hop_seconds == ASSUMED.host_hop_seconds) != measured_gloo
    if doctor:  # two hosts; their collectives are not measured again
        assert process_counts == [1]
        assert cluster.transports[0].between == Link(pytest.approx(1e-3), pytest.approx(1e-9))
