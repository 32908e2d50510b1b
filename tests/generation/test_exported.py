"""Files of an export that were changed are refused by name, in one line. Pickles are never read."""

import hashlib
import json
import pickle
import re
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
    """Object that creates a file when it is unpickled."""

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
    """Update size and checksum in generator.json, as a tool that rewrites the tensors would."""
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


def test_truncated_file_is_refused_with_both_sizes(copy):
    data = (copy / TENSORS).read_bytes()
    for size in (len(data) - 1, len(data) // 2, 3, 0):
        (copy / TENSORS).write_bytes(data[:size])
        message = refusal(copy)
        assert f"{TENSORS}: {size} bytes" in message
        assert f" {len(data)}: " in message


def test_flipped_bit_is_refused(copy):
    data = bytearray((copy / TENSORS).read_bytes())
    data[-100] ^= 1
    (copy / TENSORS).write_bytes(data)
    message = refusal(copy)
    assert f"{copy / TENSORS}: " in message
    assert "checksum" in message


def test_missing_file_is_refused(copy):
    (copy / TENSORS).unlink()
    message = refusal(copy)
    assert f"{copy / TENSORS}: " in message
    assert "missing" in message


@pytest.mark.parametrize("resigned", [False, True])
def test_pickle_named_safetensors_is_not_read(copy, tmp_path, resigned):
    for write in (lambda trap, file: torch.save(trap, file), lambda trap, file: file.write_bytes(pickle.dumps(trap))):
        write(Trap(tmp_path / "sprung"), copy / TENSORS)
        if resigned:
            resign(copy)
        message = refusal(copy)
        assert f"{copy / TENSORS}: " in message
        assert "pickle" in message
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["model.pt", "weights.pth", "pytorch_model.bin", "last.ckpt", "network.pkl"])
def test_pickles_are_named_in_the_message_and_not_read(tmp_path, name):
    torch.save(Trap(tmp_path / "sprung"), tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        message = refusal(path)
        assert f"{path}: {name} " in message
        assert "pickle" in message
    assert not (tmp_path / "sprung").exists()


def test_tensors_that_do_not_match_the_network_are_refused(copy, exported):
    def restore():
        shutil.copy(exported / TENSORS, copy / TENSORS)

    rewrite(copy, lambda tensors: tensors.pop("linear.weight"))
    assert f"{TENSORS}: tensor linear.weight is missing" in refusal(copy)
    restore()
    rewrite(copy, lambda tensors: tensors.update(surprise=torch.zeros(1)))
    assert f"{TENSORS}: tensor surprise " in refusal(copy)
    restore()
    rewrite(copy, lambda tensors: tensors.update({"linear.bias": torch.zeros(3)}))
    assert "tensor linear.bias is [3] torch.float32, not [128] torch.float32" in refusal(copy)
    restore()
    rewrite(copy, lambda tensors: tensors.update({"linear.bias": torch.zeros(128, dtype=torch.float64)}))
    assert "tensor linear.bias is [128] torch.float64" in refusal(copy)
    restore()
    rewrite(copy, lambda tensors: tensors.pop("standing/0.5/output_bn.running_var"))
    assert "tensor standing/0.5/output_bn.running_var is missing" in refusal(copy)
    restore()
    rewrite(copy, lambda tensors: tensors.update({"standing/": torch.zeros(1)}))
    assert "tensor standing/" in refusal(copy)


@pytest.mark.parametrize("key", ["big", "nan", "-1.0", "0.50"])
def test_statistics_for_an_invalid_truncation_are_refused(copy, key):
    def rename(tensors):
        for name in [name for name in tensors if name.startswith("standing/0.5/")]:
            tensors[name.replace("/0.5/", f"/{key}/")] = tensors.pop(name)

    rewrite(copy, rename)
    assert f"{TENSORS}: tensors standing/{key}/: '{key}'" in refusal(copy)


@pytest.mark.parametrize("statistics", [{}, {"statistics": {"truncations": 3}}, {"statistics": {"truncations": ["x"]}}])
def test_page_takes_the_stored_truncations_from_the_tensors(copy, monkeypatch, statistics):
    information = json.loads((copy / INFORMATION).read_text())
    del information["statistics"]
    (copy / INFORMATION).write_text(json.dumps(information | statistics))
    monkeypatch.setattr(sys, "argv", ["page.py", str(copy)])
    page = AppTest.from_file(str(Path(biggan.__file__).parent / "generation/serve_page.py"), default_timeout=60).run()
    assert not page.exception
    assert page.caption[0].value.endswith("truncation: 0.5")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "biggan-generator"),
        ("format_version", 2, "format_version 2, "),
        ("classes", ["a"], "classes: "),
        ("classes", list(range(10)), "classes: "),
        ("architecture", None, "architecture: "),
        ("step", "x", "step: "),
        ("files", {}, f"checksum for {TENSORS}"),
        ("files", None, f"checksum for {TENSORS}"),
    ],
)
def test_invalid_generator_json_is_refused(copy, key, value, message):
    information = json.loads((copy / INFORMATION).read_text())
    (copy / INFORMATION).write_text(json.dumps(information | {key: value}))
    assert f"{INFORMATION}: " in refusal(copy)
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
        ("z_dim", 9, "z_dim: 9 is not a multiple of the 4 "),
        ("class_embedding_dim", 0, "class_embedding_dim: 0 is not a size"),
        ("class_embedding_dim", -1, "class_embedding_dim: -1 is not a size"),
        ("hierarchical", "yes", "hierarchical: 'yes' is not true or false"),
        ("g_attention", 16, "g_attention: 16 is not a list"),
        ("g_attention", ["x"], "g_attention: ['x'] is not a list of map sizes"),
        ("bn_eps", "x", "bn_eps: 'x' is not a number above 0"),
        ("bn_eps", -1.0, "bn_eps: -1.0 is not a number above 0"),
        ("bn_eps", float("nan"), "bn_eps: nan is not a number above 0"),
        ("sn_eps", "x", "sn_eps: 'x' is not a number above 0"),
        # Valid, but another network. For the first two no tensor's shape differs:
        ("bn_eps", 1.0, f"{INFORMATION}: architecture: not that of {TENSORS}"),
        ("d_attention", [8], f"{INFORMATION}: architecture: not that of {TENSORS}"),
        ("channels", 2**20, f"{INFORMATION}: architecture: not that of {TENSORS}"),
    ],
)
def test_invalid_or_different_architecture_is_refused(copy, key, value, message):
    information = json.loads((copy / INFORMATION).read_text())
    information["architecture"][key] = value
    (copy / INFORMATION).write_text(json.dumps(information))
    assert message in refusal(copy)
    del information["architecture"][key]
    (copy / INFORMATION).write_text(json.dumps(information))
    assert f"architecture: '{key}': missing" in refusal(copy)


def test_network_larger_than_memory_is_refused_before_it_is_built(copy):
    information = json.loads((copy / INFORMATION).read_text())
    information["architecture"] |= {"channels": 2**20, "classes": 2**20, "z_dim": 2**20}
    (copy / INFORMATION).write_text(json.dumps(information))
    rewrite(copy, lambda tensors: None)  # even if the tensors have its digest
    assert "torch.float32, not [" in refusal(copy)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "meta", "", 1.5])
@pytest.mark.parametrize("load", [load_generator, load_discriminator])
def test_unknown_device_is_refused(exported, load, device):
    with pytest.raises(InputError, match=r"^device: .*cpu") as error:
        load(exported, device=device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("truncation", ["0.5", [0.5], -1])
def test_invalid_truncation_is_refused(exported, truncation):
    with pytest.raises(InputError, match=f"^truncation: {re.escape(repr(truncation))};"):
        load_generator(exported, truncation)


def test_truncated_json_and_folders_that_are_not_exports_are_refused(copy, run, tmp_path):
    (copy / INFORMATION).write_text((copy / INFORMATION).read_text()[:100])
    assert f"{copy / INFORMATION}: " in refusal(copy)
    assert f"{tmp_path / 'none'}: no such folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "(no generator.json)" in refusal(tmp_path / "empty")
    assert f"biggan export {run} OUT" in refusal(run)
    (tmp_path / "notes.txt").write_text("x")
    assert "not a folder" in refusal(tmp_path / "notes.txt")


def test_corrupt_discriminator_is_refused_and_the_generator_still_loads(copy):
    (copy / "discriminator.safetensors").write_bytes(b"")
    load_generator(copy)
    with pytest.raises(InputError, match=r"discriminator\.safetensors: 0 bytes"):
        load_discriminator(copy)
    information = json.loads((copy / INFORMATION).read_text())
    del information["files"]["discriminator.safetensors"]
    (copy / INFORMATION).write_text(json.dumps(information))
    with pytest.raises(InputError, match="--discriminator"):
        load_discriminator(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_values_that_are_not_finite_and_negative_variances_are_refused(copy, value):
    name = next(name for name in load_file(copy / TENSORS) if name.endswith("running_var"))

    def change(tensors):
        tensors[name][0] = value

    rewrite(copy, change)
    assert name in refusal(copy)
    assert TENSORS in refusal(copy)
