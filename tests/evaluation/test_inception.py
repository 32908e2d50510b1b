"""Inception features against pytorch-fid: its network with the same random weights, and its command on PNGs."""

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
from biggan.evaluation.moments import Moments
from biggan.evaluation.pretrained import (
    WEIGHTS_NAME,
    Inception,
    TorchvisionFeatures,
    fid_inception,
    open_inception,
    read_weights,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    """Random weights that keep the scale of activations from layer to layer."""
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
    """A folder for TORCH_HOME with those weights under the name of pytorch-fid's."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(weights, home / "hub" / "checkpoints" / WEIGHTS_NAME)
    return home


def images(count, spread, size=20):
    random = np.random.default_rng(spread)
    return np.clip(random.normal(128, spread, (count, size, size, 3)), 0, 255).astype(np.uint8)


@pytest.mark.numeric
def test_features_equal_pytorch_fid_and_logits_have_no_bias(weights, hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub / "hub"))
    theirs = InceptionV3([3]).eval()
    batch = torch.from_numpy(images(2, 60))
    extracted = Inception(weights, "random", CPU)(batch)
    with torch.no_grad():
        expected = theirs(batch.permute(0, 3, 1, 2) / 255)[0].flatten(1)
    # The same operations in the same order, but for the resizing: float32 rounding of 1e-7 over 94 layers.
    torch.testing.assert_close(extracted.features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extracted.logits, expected @ weights["fc.weight"].T, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_fid_agrees_with_the_pytorch_fid_command(weights, hub, tmp_path):
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
    assert frechet_distance(*moments) == pytest.approx(theirs, rel=1e-3)  # theirs takes roots of rounding, 2048 times


def test_weights_with_another_checksum_are_refused(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub / "hub"))
    with pytest.raises(InputError, match=r"^--inception-weights: .*pt_inception.* \w{8}, not 6726825d"):
        open_inception(None, CPU)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"^--features inception: .*pt_inception-2015.*--features classifier"):
        open_inception(None, CPU)


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    for name, content in (("pickle", pickle.dumps(Evil())), ("empty", b""), ("text", b"not weights at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"^--weights: {tmp_path / name}: .*torch\.save"):
            read_weights(tmp_path / name, "--weights")
    torch.save([torch.ones(2)], tmp_path / "list")
    with pytest.raises(InputError, match=rf"^--weights: {tmp_path / 'list'}: .*state_dict\(\)"):
        read_weights(tmp_path / "list", "--weights")
    assert not (tmp_path / "executed").exists()


def test_a_wrong_or_corrupt_file_is_refused_in_one_line(tmp_path):
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

    for text in (TINY, "a: 1\n", "run:\n  dir: x\n", "0", "}", ".", "c"):
        assert "torch.save" in refused(text.encode())
    assert "state_dict()" in refused({0: torch.ones(2)})
    file = tmp_path / "complete.pth"
    torch.save({"x": torch.arange(1000.0)}, file)
    complete = file.read_bytes()
    assert read_weights(file, "--weights")["x"][3] == 3
    assert "checksum" in refused(complete.replace(b"\0\0\x80\x3f", b"\0\0\x81\x3f", 1))
    refused(complete[: len(complete) // 2])


def test_an_unreadable_file_is_refused():
    unreadable = Path("/proc/self/mem")  # reading it fails for the superuser too
    for read in (open_inception, lambda file, _: TorchvisionFeatures("resnet18", file, CPU)):
        with pytest.raises(InputError, match=r"weights: /proc/self/mem: "):
            read(unreadable, CPU)
