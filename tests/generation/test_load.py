"""A name opens a generator: of a run, of one of its checkpoints, or of an export."""

import json
import shutil

import pytest
import torch
from generation.conftest import CLASSES, CPU
from safetensors.torch import load_file

from biggan.errors import CheckpointError, InputError
from biggan.generation.load import open_generator


def checkpoint(run, step):
    return run / "checkpoints" / f"step_{step:08d}"


@pytest.mark.parametrize(("suffix", "step"), [("", 8), ("@3", 3), ("@best", 5), ("@good", 3)])
def test_run_names_open_the_ema_generator_of_their_checkpoint(run, suffix, step):
    trained = open_generator(f"{run}{suffix}", CPU, pytest.fail)
    assert (trained.step, trained.images_seen, trained.classes) == (step, 24 * step, CLASSES)
    assert trained.origin == f"{run}@{step}"
    assert not trained.generator.training
    saved = load_file(checkpoint(run, step) / "ema.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trained.generator.state_dict().items())


def test_checkpoint_folder_is_opened_inside_its_run_or_copied(run, tmp_path, monkeypatch):
    assert open_generator(str(checkpoint(run, 5)), CPU, pytest.fail).origin == f"{run}@5"
    monkeypatch.chdir(run)
    assert open_generator("checkpoints/step_00000005", CPU, pytest.fail).origin == ".@5"
    copied = shutil.copytree(checkpoint(run, 5), tmp_path / "copied")
    assert open_generator(str(copied), CPU, pytest.fail).origin == str(copied)


def test_export_is_opened(exported):
    trained = open_generator(str(exported), CPU, pytest.fail)
    assert (trained.step, trained.origin) == (8, str(exported))


def test_corrupt_checkpoint_is_skipped_unless_it_was_named(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    (checkpoint(broken, 8) / "ema.safetensors").write_bytes(b"")
    messages = []
    assert open_generator(str(broken), CPU, messages.append).step == 5
    assert "ema.safetensors" in messages[0]
    with pytest.raises(CheckpointError, match=r"ema\.safetensors"):
        open_generator(f"{broken}@8", CPU, messages.append)


def test_names_of_nothing_are_refused_with_a_suggestion(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "checkpoints" / "pinned.json").unlink()
    for name, message in (
        (f"{run}@4", f"^{run}@4: .*{run}@3"),
        (f"{run}@soon", "RUN@STEP"),
        (f"{bare}@good", f"{bare}.* 3, 5, 8"),
        (str(tmp_path), rf"^{tmp_path}: .*step_\*"),
        (f"{tmp_path}/none@3", rf"{tmp_path}/none .*config\.yaml"),
        (f"{tmp_path}/bars@3", rf"bars .*config\.yaml.*: {bare}$"),
        (f"{tmp_path}/bars", f"^{tmp_path}/bars: .*: {bare}$"),
        (f"{tmp_path}/x", f"^{tmp_path}/x: .*`biggan train CONFIG run.dir={tmp_path}/x`$"),
    ):
        with pytest.raises(InputError, match=message):
            open_generator(name, CPU, pytest.fail)
    for folder in (bare / "checkpoints").glob("step_*"):
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(state | {"evaluation": None}))
    with pytest.raises(InputError, match=rf"{bare}.* evaluation\.every_steps=N$"):
        open_generator(f"{bare}@best", CPU, pytest.fail)
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(InputError, match=f"^{bare}: .*`biggan train {bare}/config.yaml`"):
        open_generator(str(bare), CPU, pytest.fail)
