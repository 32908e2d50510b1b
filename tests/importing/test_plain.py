"""State dicts with biggan's tensor names are imported from every file format and wrapper."""

import pytest
import torch
import yaml
from bounds import IMAGES32
from golden.reference import CPU, load, max_abs_diff, our_state
from safetensors.torch import save_file

from biggan.generation.export_reader import read_export
from biggan.runs import checkpoint

pytestmark = pytest.mark.numeric

CONFIG = {
    "run": {"dir": "runs/x"},
    "data": {"path": "data/x", "streams": 2},
    "model": {
        "resolution": 32, "channels": 4, "classes": 4, "z_dim": 16, "class_embedding_dim": 0, "hierarchical_z": False,
    },
    "training": {"steps": 9, "batch_size": 2},
    "optimizer": {"g_lr": 1e-4, "d_lr": 1e-4},
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return file


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("suffix", "wrapped"),
    [
        (".safetensors", lambda G: G),
        (".pt", lambda G: {"state_dict": prefixed("module.", G), "epoch": 3}),
        (".bin", lambda G: {"model": prefixed("_orig_mod.module.", G)}),
        (".pth", lambda G: {"generator": {n: 0 * t for n, t in G.items()}, "G_ema": prefixed("module._orig_mod.", G)}),
    ],
)
def test_generator_alone_gives_an_export(run_command, tmp_path, config, suffix, wrapped):
    tensors = load("biggan32")[1]
    contents, file = wrapped(our_state(tensors, "init.G")), tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(contents, file)
    code, output = run_command("import", file, tmp_path / "out", "--config", config, "--truncations", "none")
    assert code == 0, output
    assert ("epoch" in output) == ("epoch" in contents)
    G = read_export(tmp_path / "out" / "export", CPU).generator
    with torch.no_grad():
        assert max_abs_diff(G(tensors["probe.z"], tensors["probe.y"]), tensors["probe.G_eval"]) <= IMAGES32


def test_both_networks_give_a_run(run_command, tmp_path, config):
    tensors, out = load("biggan32")[1], tmp_path / "out"
    contents = {"G": our_state(tensors, "init.G"), "D": our_state(tensors, "init.D"), "step": 5}
    torch.save(contents, tmp_path / "both.pth")
    flags = ("--config", config, "--no-export", "optimizer.g_lr=3e-4")
    code, output = run_command("import", tmp_path / "both.pth", out, *flags)
    assert code == 0, output
    saved = checkpoint.load(out / "checkpoints" / checkpoint.folder_name(5))
    for name, key in (("generator", "G"), ("ema", "G"), ("discriminator", "D")):
        assert saved.tensors[name].keys() == contents[key].keys()
        assert all(torch.equal(tensor, contents[key][n]) for n, tensor in saved.tensors[name].items())
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert (written["optimizer"]["g_lr"], written["run"]["dir"], written["data"]["path"]) == (3e-4, str(out), "data/x")
