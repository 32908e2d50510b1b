"""Malformed sources are refused in one line that names file and tensor or flag, and nothing is written."""

import builtins
import errno
import os
import pickle
import re
import subprocess

import numpy as np
import pytest
import torch
import yaml
from golden.reference import load, our_state
from importing.released import released_tensors, write_released
from importing.sources import their_settings, write_reference
from importing.test_plain import CONFIG
from torch import nn

from biggan.errors import InputError
from biggan.importing.pickles import read_file, state_dict_of
from biggan.runs import checkpoint


@pytest.fixture
def refuses(run_command, tmp_path):
    def check(parts, *arguments):
        """Check for exit code 2, one line that contains `parts` (a text or several) in this order, and no output."""
        code, output = run_command("import", arguments[0], tmp_path / "out" / "ours", *arguments[1:])
        assert (code, len(output.strip().splitlines())) == (2, 1), output
        parts = [parts] if isinstance(parts, str) else parts
        assert re.search(".*".join(map(re.escape, parts)), output), output
        assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []

    return check


def changed(file, **tensors):
    """Return an `edit` for write_reference that replaces these entries of a file; None removes the entry."""

    def edit(name, contents):
        if name != file:
            return contents
        return {key: value for key, value in {**contents, **tensors}.items() if value is not None}

    return edit


def changed_config(**values):
    """Return an `edit` for write_reference that replaces these settings."""
    return lambda file, contents: {
        **contents, "config": {**contents["config"], **values},
    } if file == "state_dict" else contents  # fmt: skip


def replaced(file, other):
    return lambda name, contents: other if name == file else contents


WEIGHT = "blocks.1.0.conv1.weight"
BIAS = "blocks.1.0.conv1.bias"
TENSOR = "tensor blocks.1.conv1.weight"
DENSE = torch.zeros(16, 16, 3, 3)
NOT_FINITE = torch.tensor([float("nan")])
REFERENCE = [
    (("the generator: ", TENSOR, "missing"), changed("G", **{WEIGHT: None})),
    (("the discriminator: ", TENSOR, "missing"), changed("D", **{WEIGHT: None})),
    (("tensor blocks.1.conv1.bias ", "missing", "1 more"), changed("D", **{BIAS: None, "linear.bias": None})),
    (("EMA", "tensor output_conv.x "), changed("G_ema", **{"output_layer.2.x": torch.ones(2)})),
    (("EMA", TENSOR, "[9, 3]", "[16, 16, 3, 3]"), changed("G_ema", **{WEIGHT: torch.ones(9, 3)})),
    (("tensor linear.weight ", "[4]", "2 dim"), changed("G", **{"linear.weight": torch.ones(4)})),
    ("16, 16, 16, 15 channels", changed("G", **{"blocks.2.0.conv2.weight": torch.ones(15, 16, 3, 3)})),
    (("D.pth: linear.bias: ", "not finite"), changed("D", **{"linear.bias": NOT_FINITE})),
    (("the generator: ", TENSOR, "torch.int64", "torch.float32"), changed("G", **{WEIGHT: DENSE.long()})),
    (("the discriminator: ", TENSOR, "torch.bool"), changed("D", **{WEIGHT: DENSE.bool()})),
    (f"G.pth: {WEIGHT}: torch.complex64", changed("G", **{WEIGHT: DENSE.to(torch.complex64)})),
    (f"G.pth: {WEIGHT}: torch.float8_e4m3fn", changed("G", **{WEIGHT: DENSE.to(torch.float8_e4m3fn)})),
    ((f"G.pth: {WEIGHT}: ", "sparse"), changed("G", **{WEIGHT: DENSE.to_sparse()})),
    ((f"G.pth: {WEIGHT}: ", "without values"), changed("G", **{WEIGHT: DENSE.to("meta")})),
    ((f"G.pth: {WEIGHT}: ", "not finite"), changed("G", **{WEIGHT: DENSE.double() + 1e300})),
    ("D.pth: 1: int", replaced("D", {1: DENSE})),
    (("G.pth: list", "state dict"), replaced("G", [1])),
    (("D.pth: itr: int", "tensor"), replaced("D", {"itr": 3})),
    (("G_ch: 8", "4"), changed_config(G_ch=8)),
    (("dim_z: 20", "16"), changed_config(dim_z=20)),
    (("D_attn: '16' ([16])", "[]"), changed_config(D_attn="16")),
    (("G_lr: 'fast'", "float"), changed_config(G_lr="fast")),
    ("D_attn: '99999", changed_config(D_attn="9" * 5000 + "_16")),
    (("D_attn: 16", "str"), changed_config(D_attn=16)),
    ("resolution: tensor([[1, 1, 1, ", changed_config(resolution=torch.ones(50, 50).long())),
    (("shared_dim: tensor([1, 1])", "int"), changed_config(shared_dim=torch.tensor([1, 1]))),
    (("model: 'BigGANdeep'", "'BigGAN'"), changed_config(model="BigGANdeep")),
    (("D_wide: False", "True"), changed_config(D_wide=False)),
    ("z_var: 2.0", changed_config(z_var=2.0)),
    ("norm_style: gn", changed_config(norm_style="gn")),
    (("config: str", "dictionary"), changed("state_dict", config="x")),
    ("itr: -1 ", changed("state_dict", itr=-1)),
    (f"itr: {10**30} ", changed("state_dict", itr=10**30)),
    (("state_dict.pth: list", "dictionary"), replaced("state_dict", [])),
]


def case_id(case):
    return case[0] if isinstance(case[0], str) else " ".join(case[0])


@pytest.mark.parametrize(("parts", "edit"), REFERENCE, ids=map(case_id, REFERENCE))
def test_malformed_reference_files_are_refused(refuses, tmp_path, parts, edit):
    write_reference(tmp_path / "theirs", "biggan32", edit=edit)
    refuses(parts, tmp_path / "theirs")


class Harmful:
    """Pickle that creates a folder of this name if it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_other_than_tensors_are_refused_without_running_code(refuses, tmp_path):
    harmful = Harmful(tmp_path / "ran")
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    complete = (folder / "D.pth").read_bytes()
    torch.save({"linear.bias": harmful}, folder / "D.pth")
    refuses("D.pth: names posix.mkdir,", folder)
    # A pickle of torch's protocol uses the function's Python 2 name.
    torch.save({"x": subprocess.run}, folder / "D.pth")
    refuses("D.pth: names commands.run,", folder)
    torch.save({"x": torch.nn.Linear(2, 2)}, folder / "D.pth")
    refuses("D.pth: names torch.nn.modules.linear.Linear,", folder)
    (folder / "D.pth").write_bytes(pickle.dumps(harmful))
    refuses(("D.pth: ", "more than tensors"), folder)
    assert not harmful.path.exists()
    for length in (len(complete) // 3, len(complete) // 2, len(complete) - 9):
        (folder / "D.pth").write_bytes(complete[:length])
        refuses(("D.pth: ", "corrupt ("), folder)
    (folder / "D.pth").write_bytes(b"")
    refuses(("D.pth: ", "corrupt (", "empty"), folder)
    (folder / "D.pth").write_text("hello world")
    refuses(("D.pth: ", "torch.save"), folder)


def test_truncated_files_of_the_old_format_are_refused(refuses, run_command, tmp_path):
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    contents = torch.load(folder / "D.pth")
    torch.save(contents, folder / "D.pth", _use_new_zipfile_serialization=False)
    assert run_command("import", folder, tmp_path / "ours", "--no-export")[0] == 0
    complete = (folder / "D.pth").read_bytes()
    for length in (*range(1, 600), *range(600, len(complete), 997)):
        (folder / "D.pth").write_bytes(complete[:length])
        with pytest.raises(InputError, match=r"D\.pth: "):
            read_file(folder / "D.pth")
    refuses("D.pth: ", folder)


@pytest.mark.filterwarnings("ignore")  # torch warns that these kinds are deprecated
def test_quantized_and_nested_tensors_are_refused():
    for kind, tensor in (
        ("torch.qint8", torch.quantize_per_tensor(DENSE, 1, 0, torch.qint8)),
        ("is nested", torch.nested.nested_tensor([DENSE])),
        ("is nested", torch.nested.nested_tensor([DENSE], layout=torch.jagged)),
    ):
        with pytest.raises(InputError, match=f"x: a: {kind}"):
            state_dict_of({"a": tensor}, "x")


class Reduced:
    """Object pickled as `call(*arguments)`, followed by `state`."""

    def __init__(self, call, *arguments, state=None):
        self.reduced = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self):
        return self.reduced


def test_other_objects_in_the_settings_are_not_constructed(refuses, run_command, tmp_path):
    """NumPy's own code would crash on this state."""
    folder = tmp_path / "theirs"
    settings, _ = write_reference(folder, "biggan32")
    state = (3, "<", ([],), ("x",), {"x": 1}, 2**40, -7, 99)
    bests = (np.int64(3), Reduced(np.dtype, "V8", state=state), Reduced(nn.ReLU, "x", 3, state=5))
    for k, best in enumerate(bests):
        torch.save({**their_settings(settings), "best_IS": best}, folder / "state_dict.pth")
        code, output = run_command("import", folder, tmp_path / f"ours{k}", "--no-export")
        assert code == 0, output
    torch.save(their_settings(settings, G_lr=np.float64(1e-4)), folder / "state_dict.pth")
    refuses(("G_lr: ", "NumPy scalar", "float"), folder)
    torch.save({**their_settings(settings), "itr": np.int64(7)}, folder / "state_dict.pth")
    refuses(("itr: ", "NumPy scalar"), folder)
    for name in ("len", "eval"):
        torch.save({"x": getattr(builtins, name)}, folder / "D.pth")
        refuses(f"D.pth: names {name},", folder)


def test_optimizers_of_another_network_are_refused(refuses, tmp_path):
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    state = {"state": {}, "param_groups": [{"params": [0, 1]}]}
    torch.save(state, folder / "D_optim.pth")
    refuses(("D_optim.pth: 2 parameters", "23"), folder)
    moments = {"step": 1, "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    state = {"state": dict.fromkeys(range(23), moments), "param_groups": [{"params": list(range(23))}]}
    torch.save(state, folder / "D_optim.pth")
    refuses(("the discriminator's optimizer: tensor linear.weight/exp_avg ", "[3]", "[1, 16]"), folder)
    state["state"] = {k: {**moments, "exp_avg": torch.full((3,), torch.nan)} for k in range(23)}
    torch.save(state, folder / "D_optim.pth")
    refuses(("D_optim.pth: exp_avg of linear.weight: ", "not finite"), folder)
    state["state"] = {k: {**moments, "step": 10**400} for k in range(23)}
    torch.save(state, folder / "D_optim.pth")
    refuses(("D_optim.pth: ", "Adam (OverflowError"), folder)
    torch.save({**state, "state": {3: moments}}, folder / "D_optim.pth")
    refuses(("D_optim.pth: ", "1 of 23 parameters"), folder)
    torch.save({"state": {0: {"momentum": 3}}, "param_groups": state["param_groups"]}, folder / "D_optim.pth")
    refuses(("D_optim.pth: ", "Adam (KeyError: 'exp_avg')"), folder)


def test_wrong_locations_and_flags_are_refused(refuses, run_command, tmp_path):
    folder = tmp_path / "theirs"
    refuses(f"SOURCE: {folder}: no such", folder)
    folder.mkdir()
    refuses((f"SOURCE: {tmp_path / 'their'}: no such", f" {folder}"), tmp_path / "their")
    refuses((f"SOURCE: {folder}: ", "layout", "G.pth", "--config"), folder)
    settings, _ = write_reference(folder, "biggan32", "_copy0")
    refuses((f"--suffix: {folder} ", "no --suffix; ", "--suffix copy0"), folder)
    refuses((f"--suffix: {folder} ", "--suffix best0; ", "--suffix copy0"), folder, "--suffix", "best0")
    named = (folder, "--suffix", "copy0")
    refuses("--truncations: 'big'", *named, "--truncations", "big")
    refuses(("model: z_dim: 32", "16"), *named, "model.z_dim=32")
    refuses(("model: d_spectral_norm: False", "True"), *named, "model.d_spectral_norm=false")
    refuses("model.zdim: ", *named, "model.zdim=32")
    refuses("data.path: ", *named, "--data", tmp_path / "nowhere")
    (tmp_path / "names").write_text("a\nb\nc\n")
    refuses(("--classes: 3 ", "4 classes"), *named, "--classes", tmp_path / "names")
    (tmp_path / "names").write_text("a\nb\nc\nb\n")
    refuses(("--classes: 'b' ", "twice"), *named, "--classes", tmp_path / "names")
    refuses("--classes: ", *named, "--classes", tmp_path)
    refuses(("run.dir: ", "OUT"), *named, "run.dir=x")
    refuses(f"--config: only for a file of tensors, but {folder} ", *named, "--config", tmp_path / "names")
    (folder / "G_copy0.pth").unlink()
    (folder / "G_ema_copy0.pth").unlink()
    refuses((f"{folder}: ", "G_copy0.pth", "G_ema_copy0.pth"), *named)
    (folder / "G_copy0.pth").symlink_to("nowhere")
    refuses("G_copy0.pth: no such", *named)
    (folder / "G_copy0.pth").unlink()
    (folder / "G_copy0.pth").mkdir()
    refuses(("G_copy0.pth: ", "(Is a directory)"), *named)
    write_reference(folder, "biggan32", without=("D",))
    refuses("--no-export: ", folder, "--no-export")
    write_reference(folder, "biggan64", without=("G", "G_ema", "state_dict"))
    torch.save(their_settings(settings), folder / "state_dict.pth")
    refuses(("D.pth: ", "64 px", "32"), folder)
    (tmp_path / "there").mkdir()
    code, output = run_command("import", folder, tmp_path / "there")
    assert (code, f"OUT: {tmp_path / 'there'} " in output) == (2, True)
    (tmp_path / "file").write_text("")
    write_reference(folder, "biggan32")
    code, output = run_command("import", folder, tmp_path / "file" / "out", "--no-export")
    assert (code, f"OUT: {tmp_path / 'file' / 'out'}: " in output, "(Not a directory)" in output) == (2, True, True)


def test_full_disk_is_reported(refuses, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_reference(tmp_path / "theirs", "biggan32")
    monkeypatch.setattr(checkpoint, "save_file", full)
    out = tmp_path / "out" / "ours"
    refuses((f"OUT: {out}: ", "No space left on device"), tmp_path / "theirs", "--no-export")


def released_with(**changes):
    tensors = {**released_tensors(), **{name: value for name, value in changes.items() if value is not None}}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name, tensor) is not None}


CONV = "generator.layers.3.conv_2"
MEANS = "generator.bn.running_means"
RELEASED = [
    ((f"tensor {CONV}.weight_u ", "missing"), {f"{CONV}.weight_u": None}, {}),
    ((f"tensor {CONV}.weight_v ", "[3]", "[144]"), {f"{CONV}.weight_v": torch.ones(3)}, {}),
    ("tensor generator.layers.11.gamma ", {"generator.layers.11.gamma": torch.ones(1)}, {}),
    (("tensor blocks.3.conv3.bias ", "[2]", "[16]"), {f"{CONV}.bias": torch.ones(2)}, {}),
    (("running_means", "[n_stats, channels]"), {MEANS: torch.ones(9, 4)}, {}),
    (("embeddings.weight", "missing"), {"embeddings.weight": None}, {}),
    (("gen_z.bias ", "7"), {"generator.gen_z.bias": torch.ones(7)}, {}),
    (("gen_z.weight_orig ", "7 rows", "1024"), {"generator.gen_z.weight_orig": torch.ones(7, 20)}, {}),
    (("conv_to_rgb.bias ", "torch.float32", "[]"), {"generator.conv_to_rgb.bias": torch.ones(())}, {}),
    ((f"{CONV}.weight_orig ", "torch.float32", "[]"), {f"{CONV}.weight_orig": torch.ones(())}, {}),
    ((f"{CONV}.weight_orig ", "torch.int64"), {f"{CONV}.weight_orig": torch.ones(16, 16, 3, 3).long()}, {}),
    ((f"{CONV}.weight_u ", "torch.int64"), {f"{CONV}.weight_u": torch.ones(16).long()}, {}),
    (("config.json: n_stats: 50", "51"), {}, {"n_stats": 50}),
    (("config.json: output_dim: 256", "128"), {}, {"output_dim": 256}),
    ("config.json: layers, channel_width, eps: ", {}, {"eps": float("inf")}),
    (("gen_z.weight_orig ", "1024 rows"), {}, {"channel_width": 10**30}),
    (("config.json: num_classes: 7", "5"), {}, {"num_classes": 7}),
    ("config.json: layers, channel_width, eps: ", {}, {"layers": [[True, 16, 16]]}),
    ("config.json: attention_layer_position: 3 ", {}, {"attention_layer_position": 3}),
    (("config.json: eps: ", "float"), {}, {"eps": "small"}),
]


@pytest.mark.parametrize(("parts", "tensors", "config"), RELEASED, ids=map(case_id, RELEASED))
def test_malformed_released_generators_are_refused(refuses, tmp_path, parts, tensors, config):
    write_released(tmp_path / "released", released_with(**tensors), **config)
    refuses(parts, tmp_path / "released")


def test_released_generators_with_wrong_files_or_flags_are_refused(refuses, tmp_path):
    write_released(tmp_path / "released")
    refuses("training.steps=3: ", tmp_path / "released", "training.steps=3")
    refuses("--suffix: ", tmp_path / "released", "--suffix", "x")
    (tmp_path / "released" / "config.json").write_text("{")
    refuses(("config.json: ", "(Expecting"), tmp_path / "released")
    (tmp_path / "released" / "config.json").unlink()
    refuses(("config.json: ", "No such file"), tmp_path / "released")


def test_malformed_plain_state_dicts_are_refused(refuses, tmp_path):
    config, file = tmp_path / "config.yaml", tmp_path / "x.pth"
    config.write_text(yaml.safe_dump(CONFIG))
    G = our_state(load("biggan32")[1], "init.G")
    torch.save(G, file)
    refuses((f"SOURCE: {file}: ", "--config CONFIG.yaml"), file)
    refuses(f"{tmp_path / 'no.yaml'}", file, "--config", tmp_path / "no.yaml")
    missing = ("tensor blocks.0.bn1.bias.u ", "missing", "12 more")
    refuses(missing, file, "--config", config, "model.class_embedding_dim=4")
    refuses("--suffix: ", file, "--config", config, "--suffix", "x")
    torch.save({**G, "epoch": 3}, file)
    refuses("generator: epoch: int", file, "--config", config)
    for step in (-1, torch.tensor(3)):
        torch.save({"G": G, "step": step}, file)
        refuses(f"x.pth: step: {step!r} ", file, "--config", config)
    torch.save({"D": G}, file)
    refuses(("x.pth: no generator", "generator, G, "), file, "--config", config)
    torch.save({"G": {"x": 3}}, file)
    refuses("x.pth: G: x: int", file, "--config", config)
    (tmp_path / "x.ckpt").write_text("")
    refuses(("x.ckpt: ", ".safetensors"), tmp_path / "x.ckpt", "--config", config)
    (tmp_path / "x.safetensors").write_bytes(b"junk" * 9)
    refuses(("x.safetensors: ", "corrupt"), tmp_path / "x.safetensors", "--config", config)


def contents_or_none(file):
    """Return what the file holds, or None if it is refused."""
    try:
        return read_file(file)
    except InputError:
        return None


def test_every_flipped_bit_of_a_torch_zip_is_refused_or_changes_nothing(tmp_path):
    file = tmp_path / "weights.pth"
    expected = {"a": torch.arange(300.0), "b": torch.ones(3)}
    torch.save(expected, file)
    complete = file.read_bytes()
    for position in range(5, len(complete), 7):
        flipped = bytearray(complete)
        flipped[position] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        read = contents_or_none(file)
        assert read is None or all(torch.equal(read[name], expected[name]) for name in expected), position
    data = complete.index(torch.arange(300.0).numpy().tobytes())
    flipped = bytearray(complete)
    flipped[data + 400] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(InputError, match="checksum"):
        read_file(file)


def test_files_without_checksums_are_named_in_the_summary(run_command, tmp_path):
    folder = tmp_path / "theirs"
    write_reference(folder, "biggan32")
    code, output = run_command("import", folder, tmp_path / "a", "--no-export")
    assert (code, "no checksums" in output) == (0, False)
    torch.save(torch.load(folder / "D.pth"), folder / "D.pth", _use_new_zipfile_serialization=False)
    code, output = run_command("import", folder, tmp_path / "b #2", "--no-export")
    assert code == 0
    assert "D.pth: no" in " ".join(output.split())
    assert (tmp_path / "b #2" / "config.yaml").is_file()
