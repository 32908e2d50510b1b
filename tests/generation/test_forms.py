"""Every form of an export makes the EMA generator's images, for any batch size, or is not written."""

import json
import os
import re
import sys

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from generation.conftest import CPU, request

from biggan import load_generator
from biggan.errors import InputError
from biggan.generation import mlflow_export, onnx_model, torch_export
from biggan.generation.export import export
from biggan.generation.export_reader import read_export
from biggan.generation.load import open_generator
from biggan.generation.sampler import Sampler
from biggan.generation.standing_stats import standing_statistics
from biggan.generation.torch_export import MAX_DIFFERENCE, worst_difference


@pytest.fixture(scope="module")
def eager(run):
    """Reference for every form: the EMA generator with statistics for truncation 0.5."""
    return standing_statistics(open_generator(str(run), CPU, print).generator, 0.5)


@pytest.fixture(scope="module")
def restored_path():
    """Restore sys.path. MLflow puts the sources inside a model first, but later tests must import ours."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def forms(run, tmp_path_factory, restored_path):
    out = tmp_path_factory.mktemp("forms") / "letters"
    additions = {"torch-export": torch_export.write, "onnx": onnx_model.write, "mlflow": mlflow_export.write}
    export(request(run, out, truncations=(0.5, None)), additions, CPU, lambda: None)
    return out


@pytest.mark.numeric
def test_torch_export_agrees_with_the_generator(forms, eager):
    program = torch.export.load(forms / "generator.pt2").module()
    assert worst_difference(eager, program) <= MAX_DIFFERENCE
    assert program(torch.zeros(7, eager.z_dim), torch.arange(7)).shape == (7, 3, 32, 32)


@pytest.mark.numeric
def test_onnx_agrees_with_the_generator(forms, eager):
    session = onnxruntime.InferenceSession(forms / "generator.onnx", providers=["CPUExecutionProvider"])

    def run(z, y):
        return torch.from_numpy(session.run(["images"], {"z": z.numpy(), "y": y.numpy()})[0])

    assert worst_difference(eager, run) <= MAX_DIFFERENCE


def test_mlflow_model_agrees_with_the_generator_row_by_row(forms):
    model = mlflow.pyfunc.load_model(str(forms / "mlflow"))
    rows = pd.DataFrame({"class": ["b", "c", "3"], "seed": [0, 7, 0], "truncation": [0.5, None, 0.5]}, index=[5, 6, 7])
    images = model.predict(rows)
    G = load_generator(forms, 0.5, device="cpu")
    expected = [G.sample("b")[0], G.at(None).sample("c", seed=7)[0], G.sample(3)[0]]
    assert np.array_equal(images, np.stack(expected))
    untruncated = model.predict(rows[["class", "seed"]])
    assert np.array_equal(untruncated[1], expected[1])
    assert not np.array_equal(untruncated[0], expected[0])
    assert model.predict(model.input_example).shape == (1, 32, 32, 3)
    with pytest.raises(mlflow.exceptions.MlflowException, match="seed"):  # the signature is enforced
        model.predict(rows[["class"]])


def test_mlflow_model_is_registered_beside_the_run_or_on_the_server(forms, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert mlflow_export.register(forms, "letters", tmp_path / "runs" / "a", "mine") == "letters/1"
    model = mlflow.pyfunc.load_model("models:/letters/1")
    assert model.predict(model.input_example).shape == (1, 32, 32, 3)
    assert sorted(os.listdir(tmp_path)) == ["runs"]  # nothing in the working directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the command has 1: fewer, for a quick test
    with pytest.raises(InputError, match=f"^--register: letters: .*{re.escape(str(forms))}"):
        mlflow_export.register(forms, "letters", tmp_path / "runs" / "a", "mine")


def test_generator_json_lists_the_other_forms(forms):
    information = json.loads((forms / "generator.json").read_text())
    assert {form: (f["file"], f["truncation"]) for form, f in information["other_forms"].items()} == {
        "torch-export": ("generator.pt2", "0.5"),
        "onnx": ("generator.onnx", "0.5"),
        "mlflow": ("mlflow/", "any"),
    }
    assert information["files"].keys() == {"generator.onnx", "generator.pt2", "generator.safetensors"}


def test_form_that_disagrees_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch):
    """Simulate a torch.export that writes a bias with an error of 0.001."""
    save = torch.export.save

    def wrong(program, file):
        bias = program.state_dict["output_conv.bias"]
        program.state_dict["output_conv.bias"] = torch.nn.Parameter(bias + 1e-3)
        save(program, file)

    monkeypatch.setattr(torch.export, "save", wrong)
    with pytest.raises(InputError, match=r"^--format torch-export: .* 0\.0\d+, "):
        export(request(run, tmp_path / "out"), {"torch-export": torch_export.write}, CPU, lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_other_shapes_and_nan_differ_infinitely(exported):
    G = Sampler(read_export(exported, CPU)).network
    assert worst_difference(G, G) == 0
    assert worst_difference(G, lambda z, y: G(z, y)[:1]) == float("inf")
    assert worst_difference(G, lambda z, y: G(z, y) * float("nan")) == float("inf")
    late = worst_difference(G, lambda z, y: G(z, y) + (0.25 if len(z) == 32 else 0))
    assert late == pytest.approx(0.25)  # a form that is wrong at one batch size only
