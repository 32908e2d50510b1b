"""pytorch-fid's network with the same (random) weights, and its command on the same PNGs."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_fid.inception import InceptionV3
from runs import TINY, environment
from torch import nn

from biggan.errors import InputError
from biggan.evaluation.distances import frechet_distance
from biggan.evaluation.inception import WEIGHTS_NAME, Inception, fid_inception, open_inception, read_weights
from biggan.evaluation.moments import Moments
from biggan.evaluation.torchvision_features import TorchvisionFeatures

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    """Random, with every layer's output about as large as its input."""
    torch.manual_seed(0)
    network = fid_inception().to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.uniform_(module.bias, -0.1, 0.1)
    nn.init.normal_(network.fc.bias)
    return network.state_dict()


@pytest.fixture(scope="module")
def hub(weights, tmp_path_factory):
    """A home for torch's downloads that holds those weights by the true ones' name."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(weights, home / "hub" / "checkpoints" / WEIGHTS_NAME)
    return home


def images(count, spread, size=20):
    random = np.random.default_rng(spread)
    return np.clip(random.normal(128, spread, (count, size, size, 3)), 0, 255).astype(np.uint8)


def test_features_are_those_of_pytorch_fid_and_logits_have_no_bias(weights, hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub / "hub"))
    theirs = InceptionV3([3]).eval()
    batch = torch.from_numpy(images(2, 60))
    seen = Inception(weights, "random", CPU)(batch)
    with torch.no_grad():
        expected = theirs(batch.permute(0, 3, 1, 2) / 255)[0].flatten(1)
    torch.testing.assert_close(seen.features, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.logits, expected @ weights["fc.weight"].T, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_agrees_with_pytorch_fids_command_on_the_same_pngs(weights, hub, tmp_path):
    extractor, moments = Inception(weights, "random", CPU), []
    for name, spread in (("a", 30), ("b", 70)):
        batch = images(5, spread)
        (tmp_path / name).mkdir()
        for k, image in enumerate(batch):
            Image.fromarray(image).save(tmp_path / name / f"{k}.png")
        moments.append(Moments(extractor.dim))
        moments[-1].add(extractor(torch.from_numpy(batch)).features)
    command = [sys.executable, "-m", "pytorch_fid", "--num-workers", "0", "--device", "cpu", "a", "b"]
    surroundings = environment() | {"TORCH_HOME": str(hub)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=surroundings, check=True, timeout=300
    )
    theirs = float(re.search(r"FID:\s+(\S+)", done.stdout)[1])
    assert theirs > 0.1
    assert frechet_distance(*moments) == pytest.approx(theirs, rel=1e-3)


def test_a_file_that_is_not_the_true_one_is_refused_by_name(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub / "hub"))
    with pytest.raises(InputError, match=r"not pt_inception.*begins with \w{8}, not 6726825d"):
        open_inception(None, CPU)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"fetch pt_inception-2015.*--features classifier or --features torchvision"):
        open_inception(None, CPU)


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    for name, content in (("pickle", pickle.dumps(Evil())), ("empty", b""), ("words", b"not weights at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"--weights: .*not a file of weights alone"):
            read_weights(tmp_path / name, "--weights")
    torch.save([torch.ones(2)], tmp_path / "list")
    with pytest.raises(InputError, match="not a state dict"):
        read_weights(tmp_path / "list", "--weights")
    assert not (tmp_path / "executed").exists()


def test_a_wrong_or_damaged_file_is_refused_in_one_line(tmp_path):
    def refused(content):
        file = tmp_path / "weights.pth"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(InputError, match=rf"^--weights: {file}: ") as error:
            read_weights(file, "--weights")
        assert "\n" not in str(error.value)
        return str(error.value)

    for words in (TINY, "a: 1\n", "run:\n  dir: x\n", "0", "}", ".", "c"):
        assert "not a file of weights alone" in refused(words.encode())
    assert "not a state dict" in refused({0: torch.ones(2)})
    file = tmp_path / "whole.pth"
    torch.save({"x": torch.arange(1000.0)}, file)
    whole = file.read_bytes()
    assert read_weights(file, "--weights")["x"][3] == 3
    assert "is damaged" in refused(whole.replace(b"\0\0\x80\x3f", b"\0\0\x81\x3f", 1))
    refused(whole[: len(whole) // 2])


def test_a_file_that_cannot_be_read_is_refused_in_one_line():
    unreadable = Path("/proc/self/mem")  # an error to read, for the superuser too
    for read in (open_inception, lambda file, _: TorchvisionFeatures("resnet18", file, CPU)):
        with pytest.raises(InputError, match=r"weights: /proc/self/mem: cannot be read"):
            read(unreadable, CPU)
