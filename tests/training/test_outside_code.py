"""A researcher's own parts: trained with, saved and restored under --allow-code; imported by nothing else."""

import json
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
import torchvision
from runs import DRIFT32, TINY, assert_near, biggan, environment, mean_difference, weights

from biggan.config.interventions import in_force
from biggan.config.preset import resolve_tree
from biggan.config.yaml_text import load_yaml
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.moments import Moments
from biggan.evaluation.pretrained import TorchvisionFeatures
from biggan.files import sha256_of
from biggan.startup import outside_code

ALONE = Process(0, 1, torch.device("cpu"), None)
PARTS = Path(__file__).with_name("own_parts.py")
KEYS = [
    "extension.loss=own_parts:SoftHinge",
    "extension.views=['own_parts:noise']",
    "extension.discriminator.terms={own_parts:Anchor: 0.5}",
    "extension.discriminator.views=['own_parts:Replay']",
    "extension.discriminator.constraints=['own_parts:clip']",
    "extension.generator.weight_terms={own_parts:Decay: {linear: {0: 0, 6: 1e-3}}}",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a file of own parts."""
    shutil.copy(PARTS, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forgotten(monkeypatch):
    """Leave no trace of what this test imports."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("own"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def extended(once, digits):
    """The folder of a run with every kind of part that nothing interrupted, and its working directory."""

    def train(place):
        place.mkdir()
        shutil.copy(PARTS, place)
        (place / "tiny.yaml").write_text(TINY)
        line = [place / "tiny.yaml", f"run.dir={place / 'run'}", f"data.path={digits}", *KEYS, "--allow-code"]
        with chdir(place):
            (place / "output").write_text(biggan(["train", *line]))

    return once("extended", train)


@pytest.mark.slow
def test_a_run_trains_with_every_part_records_the_file_and_says_what_it_imports(extended):
    run, file = extended / "run", extended / "own_parts.py"
    output = (extended / "output").read_text()
    (line,) = [line for line in output.splitlines() if line.startswith("importing ")]
    assert f"own_parts from {file}" in line
    assert all(override.partition("=")[0] in line for override in KEYS)
    assert json.loads((run / outside_code.FILE).read_text()) == {
        "modules": {"own_parts": {"file": str(file), "sha256": sha256_of(file)}}
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row["d_anchor"] > 0 and "d_accuracy_real" in row for row in rows)
    assert rows[-1]["schedule/g_decay_weight"] == 1e-3
    saved = weights(run / "checkpoints" / "step_00000006")
    assert saved["techniques/own_parts:Replay.count"] == 6 * 2 * 12
    assert saved["discriminator/linear.weight"].abs().max() <= 1


@pytest.mark.slow
def test_a_run_resumes_with_the_flag_alone_and_ends_where_the_uninterrupted_one_ends(extended, folder, digits):
    (folder / "tiny.yaml").write_text(TINY)
    line = ["train", "tiny.yaml", "run.dir=run", f"data.path={digits}", *KEYS]
    biggan([*line, "training.steps=3", "--allow-code"])
    before = weights(folder / "run/checkpoints/step_00000003")
    assert "--allow-code" in biggan(line, expect=2)
    (folder / "own_parts.py").write_text(PARTS.read_text() + "# changed\n")
    refused = biggan([*line, "--allow-code"], expect=2)
    assert str(folder / "own_parts.py") in refused
    assert "--resume" in refused
    shutil.copy(PARTS, folder)
    biggan([*line, "--allow-code"])
    ours, theirs = (weights(place / "run/checkpoints/step_00000006") for place in (folder, extended))
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert any(not torch.equal(before[name], ours[name]) for name in ours if name.startswith("techniques/own_parts"))


@pytest.mark.slow
def test_a_child_run_may_have_other_code_and_says_so(extended, folder):
    (folder / "own_parts.py").write_text(PARTS.read_text() + "# changed\n")
    line = ["train", "--resume", extended / "run@3", "--as", "child", "training.steps=4"]
    assert "--allow-code" in biggan(line, expect=2)
    assert not (folder / "child").exists()
    assert not (folder / "imported").exists()
    output = biggan([*line, "extension.discriminator.terms={own_parts:Anchor: 2.0}", "--allow-code"])
    assert f"warning: {folder / 'own_parts.py'}" in output
    assert "extension.discriminator.terms" in output.split("child of")[1]
    assert outside_code.read(folder / "child")["own_parts"].sha256 == sha256_of(folder / "own_parts.py")


@pytest.mark.long
def test_two_processes_train_alike(extended, folder, digits):
    (folder / "tiny.yaml").write_text(TINY)
    line = ["train", "tiny.yaml", "run.dir=run", f"data.path={digits}", *KEYS, "--allow-code"]
    output = biggan([*line, "training.steps=3"], processes=2)
    assert output.count("importing own_parts") == 1
    ours, theirs = (weights(place / "run/checkpoints/step_00000003") for place in (folder, extended))
    assert_near(ours, theirs, DRIFT32)
    kept = [name for name in ours if name.startswith("techniques/own_parts")]
    assert len(kept) == 3
    assert mean_difference(ours, theirs, "techniques") < DRIFT32


@pytest.fixture
def extractor(tmp_path):
    """Flags of `biggan eval`: a fast network with random weights, and moments of random features."""
    weights_file, name, moments = tmp_path / "mobilenet.pth", "mobilenet_v3_small", Moments(1024)
    torch.save(torchvision.models.get_model(name).state_dict(), weights_file)
    moments.add(torch.rand(50, 1024))
    moments.to_npz(tmp_path / "real.npz", TorchvisionFeatures(name, weights_file, torch.device("cpu")).identity)
    of_network = ["--features", f"torchvision:{name}", "--weights", weights_file]
    return [*of_network, "--real-statistics", tmp_path / "real.npz", "--out", tmp_path / "results.json"]


@pytest.mark.slow
def test_nothing_else_imports_the_code_that_a_run_folder_names(
    extended, folder, digits, extractor, run_command, monkeypatch
):
    """Every command, on a run folder from elsewhere, where the module could be imported."""
    monkeypatch.syspath_prepend(folder)
    run = shutil.copytree(extended / "run", "run")
    config = ["run/config.yaml", "run.dir=again", f"data.path={digits}"]
    refused = {
        "train": config,
        "train --fresh": [*config, "--fresh"],
        "train --resume": ["--resume", "run@3", "--as", "child"],
        "probe": ["run@3", "--steps", "10"],
    }
    for command, arguments in refused.items():
        code, output = run_command(*command.split()[:1], *arguments)
        assert code == 2, output
        assert "extension.loss: own_parts:SoftHinge" in output
        assert "--allow-code" in output
    others = {
        "train": [*config, "--dry-run"],
        "train --allow-code": [*config, "--dry-run", "--allow-code"],
        "doctor": config,
        "sample": [run, "--out", "grid.png", "--per-class", "1"],
        "export": [run, "export"],
        "report": [run, "--out", "report.html"],
        "parameters": config[:1],
        "eval": [run, "--data", digits, "--num-images", "20", *extractor],
        "import": ["run/checkpoints/step_00000006/ema.safetensors", "converted", "--config", "run/config.yaml"],
    }
    for command, arguments in others.items():
        code, output = run_command(*command.split(), *arguments)
        assert code == 0, f"{command}: {output}"
        assert not (folder / "imported").exists(), command
    assert "own_parts" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("program", [["-m", "biggan"], [Path(sys.executable).with_name("biggan")]])
def test_the_working_directory_is_searched_however_biggan_is_started(folder, program):
    (folder / "tiny.yaml").write_text(TINY)
    line = ["train", "tiny.yaml", "run.dir=run", "data.path=none", "extension.loss=own_parts:Decay"]  # not a loss
    started = [sys.executable, *program, *line, "--allow-code"]
    done = subprocess.run(started, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2, done.stderr
    assert f"importing own_parts from {folder / 'own_parts.py'}" in done.stderr
    assert "extension.loss: own_parts:Decay is not" in done.stderr


def load(*overrides, allow_code=True):
    """Import the parts of a config on one process."""
    config = resolve_tree(load_yaml(TINY), ["run.dir=run", "data.path=none", *overrides])
    return outside_code.load(config, allow_code, ALONE)


ONE_TERM = "extension.discriminator.terms={own_one:%s: 1.0}"
BAD = {
    "no such module": ("", "extension.loss=own_none:Loss", "own_none"),
    "no such package": ("", "extension.loss=own_one.inner:Loss", "own_one.inner"),
    "the program itself": ("", "extension.loss=__main__:Loss", "__main__"),
    "no file": ("", "extension.loss=sys:exit", "sys"),
    "no such name": ("", "extension.loss=own_one:Loss", "Loss"),
    "not Python": ("def", "extension.loss=own_one:Loss", "line 1"),
    "fails": ("x = 1\nraise KeyError('a')", "extension.loss=own_one:Loss", "KeyError: 'a'", "own_one.py, line 2"),
    "fails when it is made": (
        "class Loss:\n def __init__(self): self.x",
        "extension.loss=own_one:Loss",
        "AttributeError",
        "line 2",
    ),
    "of another type": ("Loss = 3", "extension.loss=own_one:Loss", "Adversarial"),
    "not callable": ("Noise = 3", "extension.views=['own_one:Noise']", "callable"),
    "a term without a name": (
        "from biggan.objectives.seams import Term\nclass A(Term): pass",
        ONE_TERM % "A",
        "name",
    ),
    "a name that is taken": (
        "from biggan.objectives.seams import Term\nclass A(Term): name = 'r1'",
        ONE_TERM % "A",
        "'r1'",
    ),
    "one name twice": (
        "from biggan.objectives.seams import Term\nclass A(Term): name = 'a'\nclass B(A): pass",
        "extension.generator.terms={own_one:A: 1.0, own_one:B: 1.0}",
        "'a'",
    ),
    "parameters": (
        "from torch import nn\nclass A(nn.Linear):\n def __init__(self): super().__init__(1, 1)",
        "extension.views=['own_one:A']",
        "parameters",
    ),
    "an output that D does not have": (
        "from biggan.objectives.seams import Adversarial\nclass Loss(Adversarial): outputs = ('classes',)",
        "extension.loss=own_one:Loss",
        "classes",
        "features",
    ),
    "a change of it": ("Loss = 3", "rollback.extension.loss=own_one:Loss", "rollback.extension.loss", "Adversarial"),
}


@pytest.mark.parametrize("case", BAD)
def test_code_that_cannot_be_used_is_refused_with_its_key_and_place(folder, forgotten, case):
    code, override, *named = BAD[case]
    (folder / "own_one.py").write_text(code)
    with pytest.raises(InputError) as refused:
        load(override)
    assert str(refused.value).startswith(("extension", "rollback.extension"))
    assert all(part in str(refused.value) for part in named), refused.value


def test_a_gradient_at_the_input_is_refused_where_a_logit_depends_on_other_images(folder, forgotten):
    (folder / "own_one.py").write_text(
        "from biggan.objectives.seams import Term\nclass A(Term):\n name = 'a'\n differentiates = ('real',)"
    )
    plain = "model.d_spectral_norm=false"
    load(ONE_TERM % "A", plain, "model.d_normalization=layer")
    with pytest.raises(InputError, match=r"model\.d_normalization"):
        load(ONE_TERM % "A", plain, "model.d_normalization=batch")


def test_a_rollback_may_bring_parts_into_force(folder, forgotten):
    later = "rollback.extension.discriminator.terms={own_parts:Anchor: 2.0}"
    with pytest.raises(InputError, match=r"rollback\.extension\.discriminator\.terms.*--allow-code"):
        load(later, allow_code=False)
    assert not (folder / "imported").exists()
    assert set(load(later).parts) == {"own_parts:Anchor"}
    config = resolve_tree(load_yaml(TINY), ["run.dir=run", "data.path=none", later])
    halved = resolve_tree(
        load_yaml(TINY), ["run.dir=run", "data.path=none", KEYS[2], "rollback.extension.discriminator.terms=x0.5"]
    )
    terms = [in_force(c, 1).extension.discriminator.terms for c in (config, halved)]
    assert terms == [{"own_parts:Anchor": 2.0}, {"own_parts:Anchor": 0.25}]
    assert in_force(config).extension.discriminator.terms == {}


def test_parts_begin_with_numbers_of_the_seed_and_one_path_is_one_object(folder, forgotten):
    both = [KEYS[2], "extension.generator.terms={own_parts:Anchor: 1.0}"]
    before = torch.random.get_rng_state()
    first = load(*both).parts
    assert list(first) == ["own_parts:Anchor"]
    assert torch.equal(torch.random.get_rng_state(), before)
    averages = [load(*both, f"run.seed={seed}").parts["own_parts:Anchor"].average for seed in (0, 1)]
    assert first["own_parts:Anchor"].average == averages[0] != averages[1]
