"""What is not as it was written is refused by name, in one line; pickles are never read."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from biggan import load_discriminator, load_generator
from biggan.errors import InputError

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
    save_file(tensors, folder / TENSORS)
    resign(folder)


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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "not what `biggan export` writes"),
        ("format_version", 2, "format_version 2, this biggan reads 1"),
        ("classes", ["a"], "classes: not 10 names"),
        ("classes", list(range(10)), "classes: not 10 names"),
        ("architecture", None, "architecture: not an object"),
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
        ("family", "stylegan", "no stylegan generator"),
        ("resolution", 33, "no biggan generator of 33 px"),
        ("channels", "2", "channels: 2 is not a count"),
        ("classes", 0, "classes: 0 is not a count"),
        ("z_dim", 9, "z_dim: 9 is no multiple of the 4 chunks"),
        ("class_embedding_dim", 0, "class_embedding_dim: 0 is not a size"),
        ("g_attention", 16, "g_attention: 16 is not a list"),
        ("g_attention", [8], "tensor attention."),
        ("channels", 4, "torch.float32, not"),
    ],
)
def test_an_architecture_that_is_none_or_another(copy, key, value, message):
    information = json.loads((copy / INFORMATION).read_text())
    information["architecture"][key] = value
    (copy / INFORMATION).write_text(json.dumps(information))
    assert message in refusal(copy)
    del information["architecture"][key]
    (copy / INFORMATION).write_text(json.dumps(information))
    assert f"architecture: {key}: missing" in refusal(copy)


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
