"""Whatever does not belong is refused in one line that names it, and nothing is written."""

import builtins
import errno
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
import yaml
from golden.reference import load, our_state
from importing.released import made, write_released
from importing.sources import their_settings, write_reference
from importing.test_plain import CONFIG
from torch import nn

from biggan.errors import InputError
from biggan.importing.pickles import read_file, state_dict_of
from biggan.runs import checkpoint


@pytest.fixture
def refuses(run_command, tmp_path):
    def check(message, *arguments):
        code, output = run_command("import", arguments[0], tmp_path / "out" / "ours", *arguments[1:])
        assert (code, len(output.strip().splitlines())) == (2, 1), output
        assert message in output, output
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []

    return check


def changed(file, **tensors):
    """An `edit` for write_reference: these tensors of that file are others, or with None gone."""

    def edit(name, contents):
        if name != file:
            return contents
        return {key: value for key, value in {**contents, **tensors}.items() if value is not None}

    return edit


def of_config(**values):
    """The same of what the config says."""
    return lambda file, contents: {
        **contents, "config": {**contents["config"], **values},
    } if file == "state_dict" else contents  # fmt: skip


def instead(file, other):
    return lambda name, contents: other if name == file else contents


WEIGHT = "blocks.1.0.conv1.weight"
BIAS = "blocks.1.0.conv1.bias"
OURS = "tensor blocks.1.conv1.weight"
RATHER = torch.zeros(16, 16, 3, 3)
NOT_FINITE = torch.tensor([float("nan")])
REFERENCE = [
    (f"the generator: {OURS} is missing (under our names)", changed("G", **{WEIGHT: None})),
    (f"the discriminator: {OURS} is missing", changed("D", **{WEIGHT: None})),
    ("tensor blocks.1.conv1.bias is missing, and 1 more", changed("D", **{BIAS: None, "linear.bias": None})),
    ("tensor output_conv.x is not one of the network's", changed("G_ema", **{"output_layer.2.x": torch.ones(2)})),
    (f"{OURS} has the shape [9, 3], not [16, 16, 3, 3]", changed("G_ema", **{WEIGHT: torch.ones(9, 3)})),
    ("tensor linear.weight has the shape [4], not one of 2 axes", changed("G", **{"linear.weight": torch.ones(4)})),
    ("blocks of 16, 16, 16, 15 channels", changed("G", **{"blocks.2.0.conv2.weight": torch.ones(15, 16, 3, 3)})),
    ("linear.bias has values that are not finite", changed("D", **{"linear.bias": NOT_FINITE})),
    (f"the generator: {OURS} is of torch.int64, not torch.float32", changed("G", **{WEIGHT: RATHER.long()})),
    (f"the discriminator: {OURS} is of torch.bool, not", changed("D", **{WEIGHT: RATHER.bool()})),
    (f"G.pth: {WEIGHT} is of torch.complex64", changed("G", **{WEIGHT: RATHER.to(torch.complex64)})),
    (f"G.pth: {WEIGHT} is of torch.float8_e4m3fn", changed("G", **{WEIGHT: RATHER.to(torch.float8_e4m3fn)})),
    (f"G.pth: {WEIGHT} is sparse", changed("G", **{WEIGHT: RATHER.to_sparse()})),
    (f"G.pth: {WEIGHT} is without values", changed("G", **{WEIGHT: RATHER.to("meta")})),
    (f"G.pth: {WEIGHT} has values that are not finite", changed("G", **{WEIGHT: RATHER.double() + 1e300})),
    ("D.pth: 1 is no name but int", instead("D", {1: RATHER})),
    ("no state dict but list", instead("G", [1])),
    ("D.pth: itr is no tensor but int", instead("D", {"itr": 3})),
    ("G_ch: 8, but the tensors are of 4", of_config(G_ch=8)),
    ("dim_z: 20, but the tensors are of 16", of_config(dim_z=20)),
    ("D_attn: '16' ([16]), but the tensors have []", of_config(D_attn="16")),
    ("G_lr: 'fast' is no float", of_config(G_lr="fast")),
    ("D_attn: '99999", of_config(D_attn="9" * 5000 + "_16")),
    ("D_attn: 16 is no str", of_config(D_attn=16)),
    ("resolution: tensor([[1, 1, 1, ", of_config(resolution=torch.ones(50, 50).long())),
    ("shared_dim: tensor([1, 1]) is no int", of_config(shared_dim=torch.tensor([1, 1]))),
    ("model: 'BigGANdeep', but the tensors are of 'BigGAN'", of_config(model="BigGANdeep")),
    ("D_wide: False, but the tensors are of True", of_config(D_wide=False)),
    ("z_var: 2.0; our latents have the variance 1", of_config(z_var=2.0)),
    ("norm_style: gn", of_config(norm_style="gn")),
    ("config: str, no dictionary", changed("state_dict", config="x")),
    ("itr: -1 is no count of steps", changed("state_dict", itr=-1)),
    (f"itr: {10**30} is no count of steps", changed("state_dict", itr=10**30)),
    ("list, no dictionary", instead("state_dict", [])),
]


@pytest.mark.parametrize(("message", "edit"), REFERENCE, ids=[message for message, _ in REFERENCE])
def test_of_the_reference_code(refuses, tmp_path, message, edit):
    write_reference(tmp_path / "theirs", "biggan32", edit=edit)
    refuses(message, tmp_path / "theirs")


class Harmful:
    """When it is read, there is a folder of this name."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_files_of_tensors(refuses, tmp_path):
    harmful = Harmful(tmp_path / "ran")
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    whole = (folder / "D.pth").read_bytes()
    torch.save({"linear.bias": harmful}, folder / "D.pth")
    refuses("D.pth: names posix.mkdir, which is no tensor and no plain container: refused", folder)
    # A pickle of the protocol that torch writes has the name that Python 2 had for it.
    torch.save({"x": subprocess.run}, folder / "D.pth")
    refuses("D.pth: names commands.run, which is no tensor", folder)
    torch.save({"x": torch.nn.Linear(2, 2)}, folder / "D.pth")
    refuses("D.pth: names torch.nn.modules.linear.Linear, which is no tensor", folder)
    (folder / "D.pth").write_bytes(pickle.dumps(harmful))
    refuses("D.pth: holds more than tensors and plain containers, or is cut: refused", folder)
    assert not harmful.path.exists()
    for length in (len(whole) // 3, len(whole) // 2, len(whole) - 9):
        (folder / "D.pth").write_bytes(whole[:length])
        refuses("D.pth: cut or damaged (", folder)
    (folder / "D.pth").write_bytes(b"")
    refuses("D.pth: cut or damaged (it is empty, or ends too early)", folder)
    (folder / "D.pth").write_text("hello world")
    refuses("D.pth: not a file of tensors", folder)


def test_old_files_that_are_damaged(refuses, run_command, tmp_path):
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    contents = torch.load(folder / "D.pth")
    torch.save(contents, folder / "D.pth", _use_new_zipfile_serialization=False)
    assert run_command("import", folder, tmp_path / "ours", "--no-export")[0] == 0
    whole = (folder / "D.pth").read_bytes()
    for length in (*range(1, 600), *range(600, len(whole), 997)):
        (folder / "D.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"D\.pth: "):
            read_file(folder / "D.pth")
    refuses("D.pth: ", folder)


@pytest.mark.filterwarnings("ignore")  # torch says that it will do without these kinds
def test_tensors_of_other_kinds():
    for kind, tensor in (
        ("is of torch.qint8", torch.quantize_per_tensor(RATHER, 1, 0, torch.qint8)),
        ("is nested", torch.nested.nested_tensor([RATHER])),
        ("is nested", torch.nested.nested_tensor([RATHER], layout=torch.jagged)),
    ):
        with pytest.raises(InputError, match=f"x: a {kind}"):
            state_dict_of({"a": tensor}, "x")


class Reduced:
    """What is pickled as `call(*arguments)`, then given `state`."""

    def __init__(self, call, *arguments, state=None):
        self.reduced = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self):
        return self.reduced


def test_what_the_settings_hold_besides_is_not_made(refuses, run_command, tmp_path):
    """NumPy's own code would crash on such a state."""
    folder = tmp_path / "theirs"
    settings, _ = write_reference(folder, "biggan32")
    state = (3, "<", ([],), ("x",), {"x": 1}, 2**40, -7, 99)
    bests = (np.int64(3), Reduced(np.dtype, "V8", state=state), Reduced(nn.ReLU, "x", 3, state=5))
    for k, best in enumerate(bests):
        torch.save({**their_settings(settings), "best_IS": best}, folder / "state_dict.pth")
        code, output = run_command("import", folder, tmp_path / f"ours{k}", "--no-export")
        assert code == 0, output
    torch.save(their_settings(settings, G_lr=np.float64(1e-4)), folder / "state_dict.pth")
    refuses("G_lr: a NumPy scalar or an activation is no float", folder)
    torch.save({**their_settings(settings), "itr": np.int64(7)}, folder / "state_dict.pth")
    refuses("itr: a NumPy scalar or an activation is no count of steps", folder)
    for name in ("len", "eval"):
        torch.save({"x": getattr(builtins, name)}, folder / "D.pth")
        refuses(f"D.pth: names {name}, which is no tensor", folder)


def test_optimizers_of_another_network(refuses, tmp_path):
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    state = {"state": {}, "param_groups": [{"params": [0, 1]}]}
    torch.save(state, folder / "D_optim.pth")
    refuses("D_optim.pth: of 2 parameters, the network has 23", folder)
    moments = {"step": 1, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    state = {"state": dict.fromkeys(range(23), moments), "param_groups": [{"params": list(range(23))}]}
    torch.save(state, folder / "D_optim.pth")
    refuses("the discriminator's optimizer: tensor linear.weight/exp_avg has the shape [3], not [1, 16]", folder)
    state["state"] = {k: {**moments, "exp_avg": torch.full((3,), torch.nan)} for k in range(23)}
    torch.save(state, folder / "D_optim.pth")
    refuses("D_optim.pth: exp_avg of linear.weight has values that are not finite", folder)
    state["state"] = {k: {**moments, "step": 10**400} for k in range(23)}
    torch.save(state, folder / "D_optim.pth")
    refuses("not the state of torch's Adam (OverflowError", folder)
    torch.save({**state, "state": {3: moments}}, folder / "D_optim.pth")
    refuses("has the moments of 1 of 23 parameters", folder)
    torch.save({"state": {0: {"momentum": 3}}, "param_groups": state["param_groups"]}, folder / "D_optim.pth")
    refuses("not the state of torch's Adam (KeyError: 'exp_avg')", folder)


def test_places_and_flags(refuses, run_command, tmp_path):
    folder = tmp_path / "theirs"
    refuses("no such file or folder", folder)
    folder.mkdir()
    refuses(f"no such file or folder; nearest: {folder}", tmp_path / "their")
    refuses("no layout that we know; known are the reference code's", folder)
    settings, _ = write_reference(folder, "biggan32", "_copy0")
    refuses("has no networks with none: --suffix copy0", folder)
    refuses("has no networks with suffix best0: --suffix copy0", folder, "--suffix", "best0")
    named = (folder, "--suffix", "copy0")
    refuses("--truncations: 'big'", *named, "--truncations", "big")
    refuses("model: z_dim: 32, but the tensors are of 16", *named, "model.z_dim=32")
    refuses("model.zdim: no such key", *named, "model.zdim=32")
    refuses("data.path: ", *named, "--data", tmp_path / "nowhere")
    (tmp_path / "names").write_text("a\nb\nc\n")
    refuses("--classes: names 3 classes, the networks have 4", *named, "--classes", tmp_path / "names")
    (tmp_path / "names").write_text("a\nb\nc\nb\n")
    refuses("--classes: 'b' is there twice", *named, "--classes", tmp_path / "names")
    refuses("--classes: ", *named, "--classes", tmp_path)
    refuses("run.dir: OUT says it already", *named, "run.dir=x")
    refuses("--config: is of a file of tensors", *named, "--config", tmp_path / "names")
    (folder / "G_copy0.pth").unlink()
    (folder / "G_ema_copy0.pth").unlink()
    refuses("holds D alone", *named)
    (folder / "G_copy0.pth").symlink_to("nowhere")
    refuses("G_copy0.pth: no such file", *named)
    (folder / "G_copy0.pth").unlink()
    (folder / "G_copy0.pth").mkdir()
    refuses("G_copy0.pth: cannot be read (Is a directory)", *named)
    write_reference(folder, "biggan32", without=("D",))
    refuses("--no-export: of a generator alone nothing would be left", folder, "--no-export")
    write_reference(folder, "biggan64", without=("G", "G_ema", "state_dict"))
    torch.save(their_settings(settings), folder / "state_dict.pth")
    refuses("D.pth: of 64 px, the generator of 32", folder)
    (tmp_path / "there").mkdir()
    code, output = run_command("import", folder, tmp_path / "there")
    assert (code, "is there already" in output) == (2, True)
    (tmp_path / "file").write_text("")
    write_reference(folder, "biggan32")
    code, output = run_command("import", folder, tmp_path / "file" / "out", "--no-export")
    assert (code, "cannot be written (Not a directory)" in output) == (2, True)


def test_a_full_disk(refuses, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_reference(tmp_path / "theirs", "biggan32")
    monkeypatch.setattr(checkpoint, "save_file", full)
    out = tmp_path / "out" / "ours"
    refuses(f"OUT: {out}: cannot be written ([Errno 28] No space left on device)", tmp_path / "theirs", "--no-export")


def released_with(**changes):
    tensors = {**made(), **{name: value for name, value in changes.items() if value is not None}}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name, tensor) is not None}


CONV = "generator.layers.3.conv_2"
MEANS = "generator.bn.running_means"
RELEASED = [
    (f"tensor {CONV}.weight_u is missing", {f"{CONV}.weight_u": None}, {}),
    (f"tensor {CONV}.weight_v has the shape [3], not [144]", {f"{CONV}.weight_v": torch.ones(3)}, {}),
    ("tensor generator.layers.11.gamma is not one of", {"generator.layers.11.gamma": torch.ones(1)}, {}),
    ("tensor blocks.3.conv3.bias has the shape [2], not [16]", {f"{CONV}.bias": torch.ones(2)}, {}),
    ("running_means and running_vars are not [n_stats, channels]", {MEANS: torch.ones(9, 4)}, {}),
    ("no embeddings.weight and generator.gen_z.weight_orig", {"embeddings.weight": None}, {}),
    ("gen_z.bias has 7 numbers", {"generator.gen_z.bias": torch.ones(7)}, {}),
    ("gen_z.weight_orig has 7 rows, not 1024", {"generator.gen_z.weight_orig": torch.ones(7, 20)}, {}),
    ("conv_to_rgb.bias is torch.float32 of the shape []", {"generator.conv_to_rgb.bias": torch.ones(())}, {}),
    (f"{CONV}.weight_orig is torch.float32 of the shape []", {f"{CONV}.weight_orig": torch.ones(())}, {}),
    (f"{CONV}.weight_orig is torch.int64", {f"{CONV}.weight_orig": torch.ones(16, 16, 3, 3).long()}, {}),
    (f"{CONV}.weight_u is torch.int64", {f"{CONV}.weight_u": torch.ones(16).long()}, {}),
    ("n_stats: 50, but the tensors are of 51", {}, {"n_stats": 50}),
    ("output_dim: 256, but the tensors are of 128", {}, {"output_dim": 256}),
    ("eps: not those of a network of ours", {}, {"eps": float("inf")}),
    ("has 1024 rows, not", {}, {"channel_width": 10**30}),
    ("num_classes: 7, but the tensors are of 5", {}, {"num_classes": 7}),
    ("layers, channel_width, eps: not those of a network of ours", {}, {"layers": [[True, 16, 16]]}),
    ("attention_layer_position: 3; ours can have it after a stage alone", {}, {"attention_layer_position": 3}),
    ("eps: missing, or not what", {}, {"eps": "small"}),
]


@pytest.mark.parametrize(("message", "tensors", "config"), RELEASED, ids=[row[0] for row in RELEASED])
def test_of_the_released_generators(refuses, tmp_path, message, tensors, config):
    write_released(tmp_path / "released", released_with(**tensors), **config)
    refuses(message, tmp_path / "released")


def test_of_the_released_generators_files_and_flags(refuses, tmp_path):
    write_released(tmp_path / "released")
    refuses("training.steps=3: means nothing to", tmp_path / "released", "training.steps=3")
    refuses("--suffix: means nothing to", tmp_path / "released", "--suffix", "x")
    (tmp_path / "released" / "config.json").write_text("{")
    refuses("config.json: cannot be read (Expecting", tmp_path / "released")
    (tmp_path / "released" / "config.json").unlink()
    refuses("config.json: cannot be read ([Errno 2] No such file", tmp_path / "released")


def test_of_plain_state_dicts(refuses, tmp_path):
    config, file = tmp_path / "config.yaml", tmp_path / "x.pth"
    config.write_text(yaml.safe_dump(CONFIG))
    G = our_state(load("biggan32")[1], "init.G")
    torch.save(G, file)
    refuses("give --config CONFIG.yaml too", file)
    refuses("no such config", file, "--config", tmp_path / "no.yaml")
    refuses(
        "tensor blocks.0.bn1.bias.u is missing, and 12 more", file, "--config", config, "model.class_embedding_dim=4"
    )
    refuses("--suffix: is of the reference code's folders", file, "--config", config, "--suffix", "x")
    torch.save({**G, "epoch": 3}, file)
    refuses("generator: epoch is no tensor but int", file, "--config", config)
    for step in (-1, torch.tensor(3)):
        torch.save({"G": G, "step": step}, file)
        refuses(f"x.pth: step: {step!r} is no count of steps", file, "--config", config)
    torch.save({"D": G}, file)
    refuses("no generator; looked for generator, G", file, "--config", config)
    torch.save({"G": {"x": 3}}, file)
    refuses("x.pth: G: x is no tensor but int", file, "--config", config)
    (tmp_path / "x.ckpt").write_text("")
    refuses("no kind of file that we read", tmp_path / "x.ckpt", "--config", config)
    (tmp_path / "x.safetensors").write_bytes(b"junk" * 9)
    refuses("x.safetensors: cut or damaged", tmp_path / "x.safetensors", "--config", config)
