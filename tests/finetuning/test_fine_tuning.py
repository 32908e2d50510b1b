"""`biggan train ... init.from=SOURCE`: initialization, freezing, resume, and refused settings."""

import json
import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from bounds import IMAGES32
from runs import DRIFT32, biggan, mean_difference, weights
from safetensors.torch import load_file
from untrained import CLASSES

from biggan.config.preset import keys, resolve
from biggan.config.sections import InitConfig
from biggan.distributed.finite import FiniteGuard
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.generation.export_reader import read_export
from biggan.models.architecture import configured_architecture
from biggan.runs import run_folder
from biggan.startup import build, start

ALONE = Process(0, 1, torch.device("cpu"), None)
DIGITS = [str(k) for k in range(10)]
FROZEN = ["init.freeze_d_blocks=2", "init.freeze_d_steps=2", "init.freeze_g_blocks=1", "init.freeze_g_steps=2"]
FROZEN_PARTS = {
    "generator": ("linear.", "blocks.0."),
    "ema": ("linear.", "blocks.0."),
    "discriminator": ("blocks.0.", "blocks.1.", "attention.0."),
}
"""Prefixes of the weights that FROZEN freezes in each file."""


@pytest.fixture
def config(tiny):
    def resolved(*overrides):
        return resolve(Path(tiny[0]), [*tiny[1:], "data.workers=0", *overrides])

    return resolved


@contextmanager
def started(config, process=ALONE):
    """Yield the networks of a run before its first step."""
    with ExitStack() as held:
        session = start.prepare_session(config, False, None, False, process, held).session
        held.enter_context(session.logger)
        try:
            yield session.state.gan
        finally:
            session.trajectory.loader.close()


def source_tensors(source, file):
    return load_file(source / f"checkpoints/step_00000005/{file}.safetensors")


def is_buffer(name):
    """Return True for buffers, which no optimizer update moves."""
    return name.rsplit(".", 1)[-1] in ("u", "running_mean", "running_var")


@torch.no_grad()
@pytest.mark.numeric
def test_export_without_discriminator_gives_the_same_generator_and_a_new_discriminator(config, exported):
    with started(config(f"init.from={exported[False]}")) as gan:
        G, D = gan.generator.module, gan.discriminator.module
        trained = read_export(exported[False], ALONE.device)
        z = torch.randn(8, trained.generator.z_dim)
        known = [CLASSES.index(name) for name in ("7", "3")] * 4
        expected = trained.generator(z, torch.tensor(known))
        mine = torch.tensor([7, 3] * 4)
        for network in (G, gan.ema.module):
            was = network.training
            torch.testing.assert_close(network.eval()(z, mine), expected, atol=IMAGES32, rtol=0)
            network.train(was)
        fresh = build.gan(config(), ALONE, FiniteGuard(ALONE.device)).discriminator.module.state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in D.state_dict().items())
        assert G.training
        assert not gan.ema.module.training
        assert expected.std() > 0.05, "constant images would agree for any two networks"


@pytest.mark.numeric
def test_run_starts_from_ema_generator_and_discriminator_with_class_rows_by_name(config, source, tmp_path):
    with started(config(f"init.from={source}@5", "init.neighbours=[1=7+x]")) as gan:
        G, D = gan.generator.module.state_dict(), gan.discriminator.module.state_dict()
        ema = gan.ema.module.state_dict()
    for file, state in (("ema", G), ("ema", ema), ("discriminator", D)):
        theirs = source_tensors(source, file)
        for name, tensor in theirs.items():
            if "class_embedding" not in name:
                assert torch.equal(state[name], tensor), name
        rows = theirs["class_embedding.weight"]
        expected = [rows.mean(0)] * 10
        expected[7], expected[3], expected[1] = rows[0], rows[2], (rows[0] + rows[1]) / 2
        torch.testing.assert_close(state["class_embedding.weight"], torch.stack(expected))
    written = json.loads((tmp_path / "run/init.json").read_text())
    assert written["source"] == f"{source}@5"
    others = dict.fromkeys(DIGITS, "mean of all")
    assert written["classes"] == others | {"7": "by name", "3": "by name", "1": "7 + x"}
    outcomes = {row["part"]: row["outcome"] for row in written["parts"]}
    assert {part for part, outcome in outcomes.items() if outcome != "taken"} == {
        "G.class_embedding",
        "D.class_embedding",
    }


@torch.no_grad()
@pytest.mark.numeric
def test_discriminator_without_spectral_norm_starts_as_the_same_function(config, source):
    theirs = configured_architecture(resolve(source / "config.yaml").model).discriminator().eval()
    theirs.load_state_dict(source_tensors(source, "discriminator"))
    x, known = torch.rand(8, 3, 32, 32) * 2 - 1, [CLASSES.index(name) for name in ("7", "3")] * 4
    expected = theirs(x, torch.tensor(known))
    with started(config(f"init.from={source}@5", "model.d_spectral_norm=false")) as gan:
        logits = gan.discriminator.module.eval()(x, torch.tensor([7, 3] * 4))
    # Sums of up to 1,000 products in float32; without the division by spectral norm they are several times as large.
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_different_epsilons_of_the_source_are_reported(config, source, tmp_path):
    with started(config(f"init.from={source}@5", "model.bn_eps=1e-3")):
        written = json.loads((tmp_path / "run/init.json").read_text())
    assert [row for row in written["parts"] if row["part"].startswith("model.")] == [
        {"part": "model.bn_eps", "outcome": "left", "detail": "0.001; the source has 1e-05"}
    ]


def test_run_started_without_a_source_refuses_one_later(config):
    with pytest.raises(InputError, match=r"^init\.from: x, .*\bnone\b.*without it.*run\.dir"):
        run_folder.check_unchanged(config(), config("init.from=x"))


@pytest.mark.slow
def test_resume_without_the_source_equals_the_uninterrupted_run(tiny, source, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    theirs = {file: source_tensors(source, "ema" if file != "discriminator" else file) for file in FROZEN_PARTS}
    fixed = ["train", *tiny, *FROZEN, f"init.from={copy}", "data.workers=0", "checkpoint.every_steps=1"]
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    output = biggan([*fixed, f"run.dir={uninterrupted}", "training.steps=4", "checkpoint.keep_last=9"])
    assert f"{copy}@5:\n  G.class_embedding  adapted  class rows\n  G.linear           taken\n" in output
    assert "by name: 3, 7\n" in output
    biggan([*fixed, f"run.dir={resumed}", "training.steps=1"])
    shutil.rmtree(copy)
    biggan([*fixed, f"run.dir={resumed}", "training.steps=4"])
    ends = [weights(folder / "checkpoints/step_00000004") for folder in (uninterrupted, resumed)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())

    frozen, unfrozen = (weights(uninterrupted / f"checkpoints/step_0000000{step}") for step in (2, 3))
    for file, parts in FROZEN_PARTS.items():
        for name, tensor in theirs[file].items():
            if not is_buffer(name) and name != "class_embedding.weight":
                is_frozen = name.startswith(parts)
                assert torch.equal(frozen[f"{file}/{name}"], tensor) == is_frozen, name
                assert not torch.equal(unfrozen[f"{file}/{name}"], tensor), name

    refused = biggan([*fixed, f"run.dir={resumed}", "training.steps=4", "init.freeze_d_steps=9"], expect=2)
    assert "init.freeze_d_steps: 9, " in refused
    biggan(["train", "--resume", f"{uninterrupted}@3", "--as", str(tmp_path / "child"), "training.steps=4"])
    refused = biggan(
        ["train", "--resume", f"{uninterrupted}@3", "--as", str(tmp_path / "other"), "init.from=elsewhere"], expect=2
    )
    assert re.search(r"init\.from: .*parent", refused)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_two_processes_freeze_and_unfreeze_like_one(tiny, source, tmp_path, engine):
    fixed = ["train", *tiny, *FROZEN, f"init.from={source}", "data.workers=0", "checkpoint.every_steps=1"]
    fixed += ["training.steps=3", "optimizer.g_lr=5e-5", f"distributed.engine={engine}"]
    ends = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        biggan([*fixed, f"run.dir={folder}"], processes)
        ends.append([weights(folder / f"checkpoints/step_0000000{step}") for step in (2, 3)])
    for alone, together in zip(*ends, strict=True):
        for file in FROZEN_PARTS:
            assert mean_difference(alone, together, file) <= DRIFT32, file
    for file, parts in FROZEN_PARTS.items():
        for name, tensor in source_tensors(source, "ema" if file != "discriminator" else file).items():
            if name.startswith(parts) and not is_buffer(name):
                assert torch.equal(ends[1][0][f"{file}/{name}"], tensor), name
                assert not torch.equal(ends[1][1][f"{file}/{name}"], tensor), name


def truncated_copy(folder, tmp_path):
    copy = tmp_path / "truncated"
    shutil.copytree(folder, copy)
    file = next(f for f in sorted(copy.rglob("*.safetensors")) if f.stem in ("generator", "ema"))
    file.write_bytes(file.read_bytes()[:-1])
    return copy


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["init.from=nowhere"], ("init.from: nowhere: ",)),
        (["init.from={source}@7"], ("init.from: {source}@7: ", "{source}@5")),
        (["init.from={source}", "init.neighbours=[0=z]"], ("init.neighbours: '0=z': ", "source", "'z'")),
        (
            ["init.from={source}", "model.channels=4"],
            ("init.from: ", "{source}@5 (biggan, 32 px, channels 2)", "(biggan, 32 px, channels 4)", "model.channels"),
        ),
        (
            ["init.from={source}", "model.family=biggan-deep", "model.channels=4"],
            ("init.from: ", "{source}@5 (biggan, 32 px, channels 2)", "(biggan-deep, 32 px, ", "model.family"),
        ),
        (
            ["init.from={alone}", "init.freeze_d_blocks=1", "init.freeze_d_steps=1"],
            ("init.freeze_d_blocks: {alone} ", "discriminator", "init.freeze_d_steps"),
        ),
        (
            ["init.from={source}", "init.freeze_g_blocks=4", "init.freeze_g_steps=1"],
            ("init.freeze_g_blocks: 4, ", " 3 blocks"),
        ),
        (
            ["init.from={source}", "model.z_dim=16", "init.freeze_g_blocks=1", "init.freeze_g_steps=1"],
            ("init.freeze_g_blocks: 1, ", " G.linear.weight "),
        ),
        (
            ["init.from={source}", "model.d_attention=[8]", "init.freeze_d_blocks=2", "init.freeze_d_steps=1"],
            ("init.freeze_d_blocks: 2, ", " D.attention.1.gamma "),
        ),
        (["init.from={cut_export}"], ("init.from: {cut_export}/generator.safetensors: ",)),
        (
            ["init.from={cut_run}/checkpoints/step_00000005"],
            ("init.from: {cut_run}/checkpoints/step_00000005: ", "ema.safetensors"),
        ),
        (
            ["init.from={cut_run}"],
            ("init.from: {cut_run}: ", "{cut_run}/checkpoints/step_00000005: ema.safetensors"),
        ),
    ],
)
def test_unusable_sources_are_refused_in_one_line_without_a_run_folder(
    config, source, exported, tmp_path, overrides, parts
):
    (tmp_path / "export").mkdir()
    cut = {
        "cut_export": truncated_copy(exported[False], tmp_path / "export"),
        "cut_run": truncated_copy(source, tmp_path),
    }
    names = {"source": source, "alone": exported[False], **cut}
    with pytest.raises(InputError) as refused, started(config(*(text.format(**names) for text in overrides))):
        pass
    first, *others = (part.format(**names) for part in parts)
    assert str(refused.value).startswith(first)
    assert [part for part in others if part not in str(refused.value)] == [], refused.value
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["init.freeze_d_steps=3"], "init.freeze_d_steps: ", "init.from"),
        (["init.neighbours=[a=b]"], "init.neighbours: ", "init.from"),
        (["init.from=a", "init.freeze_d_steps=3"], "init.freeze_d_steps: ", "init.freeze_d_blocks"),
        (["init.from=a", "init.freeze_g_blocks=3"], "init.freeze_g_blocks: ", "init.freeze_g_steps"),
        (["init.from=a", "init.neighbours=[truck]"], "init.neighbours: 'truck'", "NEW=KNOWN"),
        (["init.source=a"], "init.source: ", "nearest: init."),
        (["init.from=a", "init.neighbours=[3]"], "init.neighbours.0: ", "3"),
    ],
)
def test_keys_without_effect_are_refused(config, overrides, key, fix):
    with pytest.raises(InputError) as refused:
        config(*overrides)
    assert str(refused.value).startswith(key)
    assert fix in str(refused.value)


def test_key_is_init_from_in_python_and_yaml(config, tmp_path):
    assert "init.from" in set(keys())
    written = config("init.from=a", "init.neighbours=[b=c]")
    assert "init:\n  from: a\n" in written.to_yaml()
    (tmp_path / "again.yaml").write_text(written.to_yaml())
    assert resolve(tmp_path / "again.yaml").init == written.init != InitConfig()


def test_dry_run_prints_the_table_and_creates_no_folder(tiny, source, tmp_path):
    output = biggan(["train", *tiny, f"init.from={source}", "--dry-run"])
    assert f"{source}@5:\n  G.class_embedding  adapted  class rows\n" in output
    assert not (tmp_path / "run").exists()
