"""`biggan eval`, run as users do."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from runs import biggan, environment, pack_digits
from stand_ins import SHORT, Tiles, generator, silent

from biggan.cli.eval_command import evaluate
from biggan.data.dataset import FILE_NAME, load
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.classifier import ClassifierPlan, cache_file
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.evaluation_run import EvaluationRequest, measure_all
from biggan.evaluation.extractors import Features
from biggan.evaluation.moments import Moments
from biggan.evaluation.output_paths import default_out
from biggan.evaluation.pretrained import TorchvisionFeatures
from biggan.evaluation.reference_statistics import RealSplit
from biggan.generation.bulk import digest
from biggan.generation.load import open_generator
from biggan.generation.standing_stats import standing_statistics
from biggan.generation.trained_generator import TrainedGenerator


@pytest.fixture(scope="module")
def run(undisturbed, tmp_path_factory):
    return shutil.copytree(undisturbed("training.steps=3"), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def mobilenet(tmp_path):
    """Flags of a fast network with random weights, and a file of moments of random features."""
    torch.manual_seed(0)
    weights, statistics = tmp_path / "mobilenet.pth", tmp_path / "real.npz"
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), weights)
    moments = Moments(1024)
    moments.add(torch.rand(50, 1024))
    name = "mobilenet_v3_small"
    moments.to_npz(statistics, TorchvisionFeatures(name, weights, torch.device("cpu")).identity)
    return ["--features", "torchvision:mobilenet_v3_small", "--weights", str(weights)], statistics


@pytest.mark.long
def test_truncation_sweep_against_a_file_of_statistics(run, digits, mobilenet, tmp_path):
    network, statistics = mobilenet
    out = tmp_path / "results" / "sweep.json"
    command = ["eval", str(run), "--data", str(digits), "--num-images", "40", "--out", str(out), *network]
    output = biggan([*command, "--real-statistics", str(statistics), "--truncation", "none", "--truncation", "0.5"])
    results = json.loads(out.read_text())["results"]
    assert [result["protocol"]["truncation"] for result in results] == [None, 0.5]
    assert results[0]["metrics"].keys() == {"fid", "inception_score", "inception_score_std"}
    assert results[0]["origin"] == f"{run}@3"
    assert results[0]["step"] == 3
    assert results[0]["generator"] == digest(open_generator(str(run), torch.device("cpu"), print).generator)
    for result in results:
        assert f"{result['metrics']['fid']:.4g}" in output
    assert "torchvision:mobilenet_v3_small features" in output
    assert "standing (16 batches of 64) statistics" in output
    Image.open(out.with_suffix(".png")).verify()
    assert sorted(file.name for file in out.parent.iterdir()) == ["sweep.json", "sweep.png"]


@pytest.mark.long
def test_one_and_two_processes_agree_with_classifier_features(run, digits, trained, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    dataset, cache = load(data), data / "evaluation"
    cache.mkdir(exist_ok=True)
    # Stands in for the classifier of the full training plan, which takes longer.
    shutil.copy(cache_file(dataset, trained[1], SHORT), cache_file(dataset, cache, ClassifierPlan()))
    command = ["eval", f"{run}@3", "--data", str(data), "--features", "classifier", "--num-images", "60", "--per-class"]
    figure = tmp_path / "neighbours.png"
    output = biggan(
        [*command, "--real-halves", "--neighbours", str(figure), "--write-statistics", str(tmp_path / "r.npz")]
    )
    file = run / "evaluation" / "step_00000003-classifier-60-images.json"
    one = json.loads(file.read_text())["results"][0]
    assert str(file) in output
    assert re.search(r"real images: 1797/1797 +\S+/s +0 s left", output)
    assert "training the classifier" not in output
    assert one["held_out_accuracy"] == trained[0].held_out_accuracy
    assert one["real_halves"]["fid"] < 0.1 * one["metrics"]["fid"]
    assert Image.open(figure).size[0] > 8 * 64
    assert Moments.from_npz(tmp_path / "r.npz").count == 1797
    assert "real images: " not in biggan(command, processes=2)
    two = json.loads(file.read_text())["results"][0]
    for name, value in one["metrics"].items():
        # The same images, summed in float64 in two parts.
        assert two["metrics"][name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def refused(run, digits, **options):
    """Run the command in this process, expect an InputError, and return its one-line message."""
    arguments = {"source": str(run), "data": str(digits), "features": "classifier"} | options
    with pytest.raises(InputError) as error:
        evaluate(**arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_arguments_are_refused_in_one_line(run, digits, tmp_path, monkeypatch):
    assert "--truncation: 0" in refused(run, digits, truncation=["0"])
    assert "--truncation: -1" in refused(run, digits, truncation=["0.5", "-1"])
    assert "--truncation: 'big'" in refused(run, digits, truncation=["big"])
    assert "--num-images: 0" in refused(run, digits, num_images=0)
    assert "--features: 'colours'" in refused(run, digits, features="colours")
    message = refused(run, digits, features="torchvision:resnet18")
    assert message.startswith("--weights: ")
    assert "torchvision:resnet18" in message
    message = refused(run, digits, weights=run)
    assert message.startswith("--weights: ")
    assert "classifier" in message
    message = refused(tmp_path / "none", digits)
    assert str(tmp_path / "none") in message
    assert not message.startswith("--data: ")
    assert f"--data: {tmp_path / 'none'}: " in refused(run, tmp_path / "none")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    message = refused(run, digits, features="inception")
    assert "pt_inception-2015-12-05-6726825d.pth" in message
    assert "--features classifier" in message
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    message = refused(run, digits, features="inception", inception_weights=other)
    assert f"--inception-weights: {other}: " in message
    assert "pt_inception" in message
    assert "SHA-256" in message
    message = refused(run, digits, features="torchvision:resnet18", weights=run / "config.yaml")
    assert f"--weights: {run / 'config.yaml'}: " in message
    assert "torch.save" in message
    out = tmp_path / "no" / "out.json"
    (tmp_path / "no").write_text("a file")
    assert f"--out: {out}: " in refused(run, digits, out=out)
    # The remaining arguments are refused before the extractor is opened.
    monkeypatch.setattr("biggan.evaluation.evaluation_run.open_extractor", None)
    assert "--out: /: " in refused(run, digits, out=Path("/"))
    assert "--neighbours: x.tex: " in refused(run, digits, neighbours=Path("x.tex"), out=tmp_path / "a.json")
    assert "--write-statistics: x: " in refused(run, digits, write_statistics=Path("x"))
    assert not list(tmp_path.glob("**/*.partial"))


def test_result_records_weights_and_batchnorm_statistics(digits, tmp_path):
    G, process = generator().eval(), Process(0, 1, torch.device("cpu"), None)
    real = RealSplit(load(digits), str(digits))
    settings = Settings(num_images=20)
    own = {"0.5": dict(standing_statistics(G, 0.5).named_buffers())}
    source = TrainedGenerator(G, real.dataset.classes, "export", None, None, own)
    request = EvaluationRequest("export", str(digits), (0.5, 0.6), Features("classifier"), settings)
    results = measure_all(request, source, Evaluator(real, Tiles(), settings, process, silent), tmp_path)
    assert [result.protocol.statistics for result in results] == [
        "standing (the export's own)",
        "standing (16 batches of 64)",
    ]
    assert {result.generator for result in results} == {digest(G)}


def test_default_folder_of_a_run_and_of_a_moved_checkpoint(run, tmp_path):
    def out_of(path):
        source = open_generator(str(path), torch.device("cpu"), print)
        return default_out(source, "classifier", Settings(10), [None])

    assert out_of(run) == out_of(f"{run}@3") == run / "evaluation" / "step_00000003-classifier-10-images.json"
    (checkpoint,) = (run / "checkpoints").glob("step_*3")
    moved = tmp_path / "b@best"
    shutil.copytree(checkpoint, moved)
    assert out_of(moved).parent == tmp_path / "b@best-evaluation"


def test_importing_evaluation_imports_neither_torchvision_nor_pytorch_fid():
    code = "import sys, biggan.evaluation.evaluation_run; print({'torchvision', 'pytorch_fid'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "set()\n"


def test_a_data_set_with_another_resolution_or_other_classes_is_refused(run, digits, tmp_path):
    pack_digits(tmp_path / "small", resolution=16)
    message = refused(run, tmp_path / "small")
    assert message.startswith("--data: ")
    assert "16 px" in message
    assert "--resolution 32" in message
    renamed = tmp_path / "renamed"
    shutil.copytree(digits, renamed)
    described = json.loads((renamed / FILE_NAME).read_text())
    described["classes"][0] = "zero"
    (renamed / FILE_NAME).write_text(json.dumps(described))
    message = refused(run, renamed)
    assert message.startswith("--data: ")
    assert "zero, 1, 2, ... (10)" in message


def test_bad_arguments_exit_with_code_2_and_one_line(digits, tmp_path):
    output = biggan(["eval", str(tmp_path / "none"), "--data", str(digits)], expect=2)
    assert output.strip().count("\n") == 0
    assert output.startswith("biggan: ")
