"""Checkpoints of the reference code are imported as the same networks, and training continues on its trajectory."""

import json
import re

import numpy as np
import pytest
import torch
from bounds import IMAGES32
from golden.reference import CPU, NAMES, assert_final, follow, max_abs_diff, networks, our_state
from importing.sources import STEP, their_settings, their_state, write_reference
from PIL import Image

from biggan.config.preset import resolve
from biggan.data.pack import Plan, start_packing
from biggan.data.sources.selection import SelectionRequest
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.generation.export_reader import read_export
from biggan.models.architecture import configured_architecture
from biggan.runs import checkpoint
from biggan.startup import build
from biggan.startup.recipe import compose

ALONE = Process(0, 1, CPU, None)


def imported(run_command, *arguments):
    code, output = run_command("import", *arguments)
    assert code == 0, output
    return output


def saved_in(out, step=STEP):
    return checkpoint.load(out / "checkpoints" / checkpoint.folder_name(step))


@pytest.mark.numeric
@pytest.mark.parametrize("name", NAMES)
def test_imported_networks_are_equal_and_training_follows_the_reference(run_command, tmp_path, name):
    settings, tensors = write_reference(tmp_path / "theirs", name)
    out = tmp_path / "deep" / "ours"
    imported(run_command, tmp_path / "theirs", out, "--truncations", "none")
    config, saved = resolve(out / "config.yaml"), saved_in(out)

    G = read_export(out / "export", CPU).generator
    D = configured_architecture(config.model).discriminator()
    D.load_state_dict(saved.tensors["discriminator"])
    with torch.no_grad():
        assert max_abs_diff(G(tensors["probe.z"], tensors["probe.y"]), tensors["probe.G_eval"]) <= IMAGES32
        logits = D.eval()(tensors["probe.x"], tensors["probe.y"])
        assert max_abs_diff(logits, tensors["probe.D_eval"].squeeze(1)) <= IMAGES32

    # All settings come from the import, none from the test.
    gan = build.gan(config, ALONE, FiniteGuard(CPU))
    gan.generator.restore(saved.tensors["generator"], saved.tensors["g_optimizer"])
    gan.discriminator.restore(saved.tensors["discriminator"], saved.tensors["d_optimizer"])
    gan.ema.module.load_state_dict(saved.tensors["ema"])
    follow(gan, compose(config, gan, build.autocast(config, CPU)), settings, tensors)
    assert_final(gan, tensors)


def test_train_command_continues_from_an_import(run_command, tmp_path):
    for name in "abcd":
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(4):
            pixels = np.random.default_rng(k).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    start_packing(Plan(SelectionRequest((str(tmp_path / "images"),)), 32, shards=4), tmp_path / "data").run(
        1, lambda _: None
    )
    write_reference(tmp_path / "theirs", "biggan32")
    out = tmp_path / "ours"
    start_packing(Plan(SelectionRequest((str(tmp_path / "images"),)), 64, shards=4), tmp_path / "large").run(
        1, lambda _: None
    )
    code, output = run_command("import", tmp_path / "theirs", out, "--data", tmp_path / "large")
    assert (code, out.exists()) == (2, False)
    assert re.search(r"--data: .* RGB images of 64 px, .* RGB images of 32 px", output)
    imported(run_command, tmp_path / "theirs", out, "--data", tmp_path / "data", "--no-export")
    assert not (out / "export").exists()
    code, output = run_command("train", out / "config.yaml", f"training.steps={STEP + 1}", "tracking.mlflow=false")
    assert code == 0, output
    assert f"resuming from {out / 'checkpoints' / checkpoint.folder_name(STEP)}" in output
    before, after = saved_in(out), saved_in(out, STEP + 1)
    assert before.state["classes"] == after.state["classes"] == list("abcd")
    assert before.state["images_seen"] == STEP * 4
    assert after.state["images_seen"] == (STEP + 1) * 4
    assert not torch.equal(after.tensors["generator"]["linear.weight"], before.tensors["generator"]["linear.weight"])


def adam_of(state):
    """Return torch's Adam after two steps on a network with these parameters, and the parameters by name."""
    trained = ("weight", "bias", "gain", "gamma")
    named = {name: t.clone().requires_grad_() for name, t in state.items() if name.split(".")[-1] in trained}
    adam = torch.optim.Adam(named.values(), lr=1e-3, betas=(0.0, 0.999))
    for _ in range(2):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        adam.step()
    return adam, named


@pytest.mark.parametrize("old", [False, True])
def test_adam_state_is_imported_per_parameter(run_command, tmp_path, old):
    _, tensors = write_reference(tmp_path / "theirs", "biggan64")
    expected = {}
    for network, file in (("G", "g_optimizer"), ("D", "d_optimizer")):
        adam, named = adam_of(their_state(tensors, f"init.{network}"))
        state = adam.state_dict()
        if old:  # earlier versions of torch numbered parameters by address, and stored the step as a Python number
            number = {k: 10**9 - 13 * k for k in range(len(named))}
            state["state"] = {number[k]: {**v, "step": int(v["step"])} for k, v in state["state"].items()}
            state["param_groups"][0]["params"] = list(number.values())
        torch.save(state, tmp_path / "theirs" / f"{network}_optim.pth")
        for key in ("exp_avg", "exp_avg_sq"):
            moments = {f"of.{name}": adam.state[parameter][key] for name, parameter in named.items()}
            expected |= {f"{file}/{name}/{key}": moment for name, moment in our_state(moments, "of").items()}
    out = tmp_path / "ours"
    imported(run_command, tmp_path / "theirs", out, "--no-export")
    saved = saved_in(out).tensors
    found = {f"{file}/{name}": t for file in ("g_optimizer", "d_optimizer") for name, t in saved[file].items()}
    steps = {name for name in found if name.endswith("/step")}
    assert found.keys() - steps == expected.keys()
    assert all(torch.equal(found[name], moment) for name, moment in expected.items())
    assert all(torch.equal(found[name], torch.tensor(2.0)) for name in steps)
    config, guard = resolve(out / "config.yaml"), FiniteGuard(CPU)
    gan = build.gan(config, ALONE, guard)
    gan.generator.restore(saved["generator"], saved["g_optimizer"])
    assert {name for name, _ in gan.generator.optimizer_state()} == saved["g_optimizer"].keys()


def cross_replica(file, contents):
    """Rename tensors as the reference code's cross-replica BatchNorm and DataParallel do."""
    if file == "state_dict":
        return contents
    renamed = {re.sub(r"stored_(mean|var)$", r"bn.running_\1", name): tensor for name, tensor in contents.items()}
    counters = {re.sub("mean$", "tracked", n): torch.tensor(3) for n in renamed if n.endswith("bn.running_mean")}
    counters = {name.replace("running_tracked", "num_batches_tracked"): t for name, t in counters.items()}
    return {f"module.{name}": tensor for name, tensor in {**renamed, **counters}.items()}


def test_names_of_wrappers_and_of_both_batchnorms_are_recognised(run_command, tmp_path):
    for name, suffix, edit in (("a", "", lambda _, c: c), ("b", "_copy0", cross_replica)):
        write_reference(tmp_path / name, "biggan-deep64", suffix, edit)
        flags = ["--suffix", suffix.strip("_")] if suffix else []
        imported(run_command, tmp_path / name, tmp_path / f"ours-{name}", "--no-export", *flags)
    first, second = (saved_in(tmp_path / f"ours-{name}").tensors for name in "ab")
    for file in first:
        assert first[file].keys() == second[file].keys()
        assert all(torch.equal(tensor, second[file][name]) for name, tensor in first[file].items())


def test_ema_generator_is_exported_and_a_generator_alone_gives_only_an_export(run_command, tmp_path):
    def doubled(file, contents):
        return (
            {n: 2 * t if n == "output_layer.0.gain" else t for n, t in contents.items()}
            if file == "G_ema"
            else contents
        )

    write_reference(tmp_path / "theirs", "biggan32", edit=doubled, without=("D",))
    (tmp_path / "names").write_text("cat\n\ndog\nzoë\nbee\n", encoding="utf-8-sig")
    out = tmp_path / "ours"
    flags = ("--truncations", "none", "--classes", tmp_path / "names", "--license", "mit")
    output = imported(run_command, tmp_path / "theirs", out, *flags)
    assert [f.name for f in out.iterdir()] == ["export"]
    assert "no D: " in output
    read = read_export(out / "export", CPU)
    assert read.classes == ("cat", "dog", "zoë", "bee")
    assert (read.step, read.images_seen) == (STEP, 4 * STEP)
    gain = their_state(write_reference(tmp_path / "x", "biggan32")[1], "init.G")["output_layer.0.gain"]
    assert torch.equal(read.generator.output_bn.gain, 2 * gain)
    card = (out / "export" / "README.md").read_text()
    assert "theirs, imported" in card
    assert "28 real images" in card
    assert json.loads((out / "export" / "generator.json").read_text())["license"] == "mit"


def test_missing_files_are_reported_and_replaced_by_defaults(run_command, tmp_path):
    write_reference(tmp_path / "theirs", "biggan32", without=("G", "state_dict"))
    out = tmp_path / "ours"
    output = imported(run_command, tmp_path / "theirs", out, "--no-export", "training.batch_size=6", "data.streams=3")
    for text in ("no G: ", "no state_dict: ", "no G_optim: ", "unknown"):
        assert text in output
    config, saved = resolve(out / "config.yaml"), saved_in(out, 0)
    assert (config.training.batch_size, config.optimizer.d_lr, config.model.sn_eps) == (6, 2e-4, 1e-8)
    for name, tensor in saved.tensors["ema"].items():
        assert torch.equal(saved.tensors["generator"][name], tensor)
    assert (saved.state["classes"], saved.state["step"]) == (["0", "1", "2", "3"], 0)


@pytest.mark.numeric
def test_last_batchnorm_keeps_its_fixed_epsilon(run_command, tmp_path):
    def other_eps(file, contents):
        return {**contents, "config": {**contents["config"], "BN_eps": 0.01}} if file == "state_dict" else contents

    settings, tensors = write_reference(tmp_path / "theirs", "biggan64", edit=other_eps)
    imported(run_command, tmp_path / "theirs", tmp_path / "ours", "--truncations", "none")
    G = networks({**settings, "BN_eps": 0.01}, tensors)[0].eval()
    G.output_bn.eps = 1e-5
    with torch.no_grad():
        expected = G(tensors["probe.z"], tensors["probe.y"])
        found = read_export(tmp_path / "ours" / "export", CPU).generator(tensors["probe.z"], tensors["probe.y"])
    assert max_abs_diff(expected, tensors["probe.G_eval"]) > 1e-3
    assert max_abs_diff(found, expected) <= IMAGES32


def test_unsupported_settings_are_reported(run_command, tmp_path):
    changes = {"D_B1": 0.5, "D_ortho": 1e-4, "num_G_accumulations": 3, "G_batch_size": 4, "split_D": True}
    changes |= {"num_G_SV_itrs": 2, "num_D_SV_itrs": 3, "augment": True}
    settings, _ = write_reference(tmp_path / "theirs", "biggan32")
    torch.save(their_settings(settings, **changes), tmp_path / "theirs" / "state_dict.pth")
    output = imported(run_command, tmp_path / "theirs", tmp_path / "ours", "--no-export")
    for name in changes:
        assert name in output


def of_one_class(_file, contents):
    """Reduce the tables to one row, as the reference code trains without classes."""
    tables = ("gain.weight", "bias.weight", "embed.weight")
    if "config" in contents:
        return {**contents, "config": {**contents["config"], "n_classes": 1}}
    return {n: t[:1] if n.endswith(tables) and t.ndim == 2 else t[:, :1] if n == "embed.u0" else t
            for n, t in contents.items()}  # fmt: skip


@pytest.mark.numeric
def test_only_the_generator_of_networks_without_classes_is_imported(run_command, tmp_path):
    folder, out = tmp_path / "theirs", tmp_path / "ours"
    _, tensors = write_reference(folder, "biggan32", edit=of_one_class)
    code, output = run_command("import", folder, out)
    assert code == 2
    (line,) = output.strip().splitlines()
    assert "D.pth: " in line
    assert "one class" in line
    (folder / "D.pth").unlink()
    imported(run_command, folder, out, "--truncations", "none")
    G = read_export(out / "export", CPU).generator
    first = torch.zeros_like(tensors["probe.y"])
    complete = networks(*write_reference(tmp_path / "whole", "biggan32"))[0].eval()
    with torch.no_grad():
        assert max_abs_diff(G(tensors["probe.z"], first), complete(tensors["probe.z"], first)) <= IMAGES32
