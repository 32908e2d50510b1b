"""What is not as it was written is refused by name, in one line; pickles are never read."""

import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

import biggan
from biggan import load_discriminator, load_generator
from biggan.errors import InputError
from biggan.generation.architecture_json import from_json
from biggan.models.architecture import Architecture

TENSORS, INFORMATION = "generator.safetensors", "generator.json"


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self):
        return Path.touch, (self.sprung,)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load_generator(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def resign(folder: Path) -> None:
    """Make size and checksum those of the file again, as a tool that rewrites it would."""
    file, information = folder / TENSORS, json.loads((folder / INFORMATION).read_text())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    information["files"][TENSORS] = {"bytes": file.stat().st_size, "sha256": digest}
    (folder / INFORMATION).write_text(json.dumps(information))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS, {"architecture": architecture(folder).digest()})
    resign(folder)


def architecture(folder: Path) -> Architecture:
    return from_json(json.loads((folder / INFORMATION).read_text())["architecture"])


def test_a_cut_file(copy):
    data = (copy / TENSORS).read_bytes()
    for size in (len(data) - 1, len(data) // 2, 3, 0):
        (copy / TENSORS).write_bytes(data[:size])
        assert f"{TENSORS}: {size} bytes, generator.json says {len(data)}" in refusal(copy)


def test_one_flipped_bit(copy):
    data = bytearray((copy / TENSORS).read_bytes())
    data[-100] ^= 1
    (copy / TENSORS).write_bytes(data)
    assert f"{TENSORS}: is damaged" in refusal(copy)


def test_a_missing_file(copy):
    (copy / TENSORS).unlink()
    assert f"{TENSORS}: is missing" in refusal(copy)


@pytest.mark.parametrize("resigned", [False, True])
def test_a_pickle_by_the_name_of_tensors_is_not_read(copy, tmp_path, resigned):
    for write in (lambda trap, file: torch.save(trap, file), lambda trap, file: file.write_bytes(pickle.dumps(trap))):
        write(Trap(tmp_path / "sprung"), copy / TENSORS)
        if resigned:
            resign(copy)
        assert f"{TENSORS}: no safetensors file (a pickle" in refusal(copy)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.pth", "pytorch_model.bin", "last.ckpt", "network.pkl"])
def test_pickles_are_named_and_not_read(tmp_path, name):
    torch.save(Trap(tmp_path / "sprung"), tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        assert f"{name} is a pickle" in refusal(path)
    assert not (tmp_path / "sprung").exists()


def test_tensors_that_are_not_the_networks(copy, exported):
    def again():
        shutil.copy(exported / TENSORS, copy / TENSORS)

    rewrite(copy, lambda tensors: tensors.pop("linear.weight"))
    assert f"{TENSORS}: tensor linear.weight is missing" in refusal(copy)
    again()
    rewrite(copy, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert "tensor surprise is not one of the network's" in refusal(copy)
    again()
    rewrite(copy, lambda tensors: tensors.update({"linear.bias": torch.zeros(3)}))
    assert "tensor linear.bias is [3] torch.float32, not [128] torch.float32" in refusal(copy)
    again()
    rewrite(copy, lambda tensors: tensors.update({"linear.bias": torch.zeros(128, dtype=torch.float64)}))
    assert "tensor linear.bias is [128] torch.float64" in refusal(copy)
    again()
    rewrite(copy, lambda tensors: tensors.pop("standing/0.5/output_bn.running_var"))
    assert "tensor standing/0.5/output_bn.running_var is missing" in refusal(copy)
    again()
    rewrite(copy, lambda tensors: tensors.update({"standing/": torch.zeros(1)}))
    assert "tensor standing/" in refusal(copy)


@pytest.mark.parametrize("key", ["big", "nan", "-1.0", "0.50"])
def test_statistics_for_what_is_no_truncation(copy, key):
    def rename(tensors):
        for name in [name for name in tensors if name.startswith("standing/0.5/")]:
            tensors[name.replace("/0.5/", f"/{key}/")] = tensors.pop(name)

    rewrite(copy, rename)
    assert f"tensors standing/{key}/: '{key}' is no truncation; " in refusal(copy)


@pytest.mark.parametrize("told", [{}, {"statistics": {"truncations": 3}}, {"statistics": {"truncations": ["x"]}}])
def test_the_page_asks_the_tensors_for_truncations(copy, monkeypatch, told):
    information = json.loads((copy / INFORMATION).read_text())
    del information["statistics"]
    (copy / INFORMATION).write_text(json.dumps(information | told))
    monkeypatch.setattr(sys, "argv", ["page.py", str(copy)])
    page = AppTest.from_file(str(Path(biggan.__file__).parent / "generation/serve_page.py"), default_timeout=60).run()
    assert not page.exception
    assert page.caption[0].value.endswith("with its statistics of the nearest truncation: 0.5")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "not what `biggan export` writes"),
        ("format_version", 2, "format_version 2, this biggan reads 1"),
        ("classes", ["a"], "classes: not 10 names"),
        ("classes", list(range(10)), "classes: not 10 names"),
        ("architecture", None, "architecture: not an object"),
        ("step", "x", "step: not a count"),
        ("files", {}, f"has no checksum of {TENSORS}"),
        ("files", None, f"has no checksum of {TENSORS}"),
    ],
)
def test_a_generator_json_that_says_something_else(copy, key, value, message):
    information = json.loads((copy / INFORMATION).read_text())
    (copy / INFORMATION).write_text(json.dumps(information | {key: value}))
    assert message in refusal(copy)
    del information[key]
    (copy / INFORMATION).write_text(json.dumps(information))
    assert INFORMATION in refusal(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("family", "stylegan", "family: 'stylegan' is not one of biggan, biggan-deep"),
        ("resolution", 33, "resolution: 33 is not one of 32, 64"),
        ("resolution", 32.0, "resolution: 32.0 is not one of"),
        ("resolution", [32], "resolution: [32] is not one of"),
        ("channels", "2\n", "channels: '2\\n' is not a count"),
        ("channels", True, "channels: True is not a count"),
        ("classes", 0, "classes: 0 is not a count"),
        ("classes", 10**12, "classes: 1000000000000 is not a count"),
        ("z_dim", 4 * 10**12, "z_dim: 4000000000000 is not a count"),
        ("z_dim", 9, "z_dim: 9 is no multiple of the 4 chunks"),
        ("class_embedding_dim", 0, "class_embedding_dim: 0 is not a size"),
        ("class_embedding_dim", -1, "class_embedding_dim: -1 is not a size"),
        ("hierarchical", "yes", "hierarchical: 'yes' is not true or false"),
        ("g_attention", 16, "g_attention: 16 is not a list"),
        ("g_attention", ["x"], "g_attention: ['x'] is not a list of map sizes"),
        ("bn_eps", "x", "bn_eps: 'x' is not a number above 0"),
        ("bn_eps", -1.0, "bn_eps: -1.0 is not a number above 0"),
        ("bn_eps", float("nan"), "bn_eps: nan is not a number above 0"),
        ("sn_eps", "x", "sn_eps: 'x' is not a number above 0"),
        # Sound, and of another network, which no tensor's shape shows for the first two:
        ("bn_eps", 1.0, f"architecture: not the one that {TENSORS} was written for"),
        ("d_attention", [8], f"architecture: not the one that {TENSORS} was written for"),
        ("channels", 2**20, f"architecture: not the one that {TENSORS} was written for"),
    ],
)
def test_an_architecture_that_is_none_or_another(copy, key, value, message):
    information = json.loads((copy / INFORMATION).read_text())
    information["architecture"][key] = value
    (copy / INFORMATION).write_text(json.dumps(information))
    assert message in refusal(copy)
    del information["architecture"][key]
    (copy / INFORMATION).write_text(json.dumps(information))
    assert f"architecture: '{key}': missing" in refusal(copy)


def test_a_network_that_would_fill_the_memory_is_refused_before_it_is_built(copy):
    information = json.loads((copy / INFORMATION).read_text())
    information["architecture"] |= {"channels": 2**20, "classes": 2**20, "z_dim": 2**20}
    (copy / INFORMATION).write_text(json.dumps(information))
    rewrite(copy, lambda tensors: None)  # even where the tensors claim to be for it
    assert "torch.float32, not [" in refusal(copy)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "", 1.5])
@pytest.mark.parametrize("load", [load_generator, load_discriminator])
def test_a_device_that_is_none(exported, load, device):
    with pytest.raises(InputError, match=r"device: .*; use cpu, or leave it out") as error:
        load(exported, device=device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("truncation", ["0.5", [0.5], -1])
def test_a_truncation_that_is_none(exported, truncation):
    with pytest.raises(InputError, match=r"truncation: .*; use a number above 0"):
        load_generator(exported, truncation)


def test_json_that_is_cut_and_folders_that_are_no_exports(copy, run, tmp_path):
    (copy / INFORMATION).write_text((copy / INFORMATION).read_text()[:100])
    assert f"{INFORMATION}: cannot be read" in refusal(copy)
    assert "no such folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no export (no generator.json)" in refusal(tmp_path / "empty")
    assert f"a run or a checkpoint, not an export; make one: biggan export {run} OUT" in refusal(run)
    (tmp_path / "notes.txt").write_text("x")
    assert "not a folder" in refusal(tmp_path / "notes.txt")


def test_a_damaged_discriminator_is_named_and_the_generator_still_loads(copy):
    (copy / "discriminator.safetensors").write_bytes(b"")
    load_generator(copy)
    with pytest.raises(InputError, match=r"discriminator\.safetensors: 0 bytes"):
        load_discriminator(copy)
    information = json.loads((copy / INFORMATION).read_text())
    del information["files"]["discriminator.safetensors"]
    (copy / INFORMATION).write_text(json.dumps(information))
    with pytest.raises(InputError, match="holds no discriminator"):
        load_discriminator(copy)
