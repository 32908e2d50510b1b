"""One name opens a generator: of a run, of one of its checkpoints, of an export."""

import json
import shutil

import pytest
import torch
from generation.conftest import CLASSES, CPU
from safetensors.torch import load_file

from biggan.errors import CheckpointError, InputError
from biggan.generation.load import open_source


def checkpoint(run, step):
    return run / "checkpoints" / f"step_{step:08d}"


@pytest.mark.parametrize(("which", "step"), [("", 8), ("@3", 3), ("@best", 5), ("@good", 3)])
def test_a_run_and_its_checkpoints(run, which, step):
    source = open_source(f"{run}{which}", CPU, pytest.fail)
    assert (source.step, source.images_seen, source.classes) == (step, 24 * step, CLASSES)
    assert source.origin == f"{run}@{step}"
    assert not source.generator.training
    saved = load_file(checkpoint(run, step) / "ema.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in source.generator.state_dict().items())


def test_a_checkpoints_folder_at_home_or_copied(run, tmp_path, monkeypatch):
    assert open_source(str(checkpoint(run, 5)), CPU, pytest.fail).origin == f"{run}@5"
    monkeypatch.chdir(run)
    assert open_source("checkpoints/step_00000005", CPU, pytest.fail).origin == ".@5"
    copied = shutil.copytree(checkpoint(run, 5), tmp_path / "copied")
    assert open_source(str(copied), CPU, pytest.fail).origin == str(copied)


def test_an_export(exported):
    source = open_source(str(exported), CPU, pytest.fail)
    assert (source.step, source.origin) == (8, str(exported))


def test_a_damaged_checkpoint_is_passed_over_only_if_it_was_not_named(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "broken")
    (checkpoint(broken, 8) / "ema.safetensors").write_bytes(b"")
    said = []
    assert open_source(str(broken), CPU, said.append).step == 5
    assert "ema.safetensors is damaged" in said[0]
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is damaged"):
        open_source(f"{broken}@8", CPU, said.append)


def test_what_is_not_there(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "checkpoints" / "pinned.json").unlink()
    for name, message in (
        (f"{run}@4", f"^{run}@4: .* has no checkpoint of step 4; nearest"),
        (f"{run}@soon", "write RUN@STEP"),
        (f"{bare}@good", f"^{bare}@good: .*3, 5, 8"),
        (str(tmp_path), "neither a checkpoint nor a run with one, nor an export"),
        (f"{tmp_path}/none@3", r"none@3: .*config\.yaml"),
        (f"{tmp_path}/bars@3", rf"bars@3: .*nearest: {bare}$"),
        (f"{tmp_path}/bars", f"bars: no such folder; nearest: {bare}$"),
        (f"{tmp_path}/x", f"x: no such folder; make a run: `biggan train CONFIG run.dir={tmp_path}/x`$"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(name, CPU, pytest.fail)
    for folder in (bare / "checkpoints").glob("step_*"):
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(state | {"evaluation": None}))
    with pytest.raises(InputError, match=r"@best: .*evaluation\.every_steps=N$"):
        open_source(f"{bare}@best", CPU, pytest.fail)
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(InputError, match=f"without a whole checkpoint; train it: `biggan train {bare}/config.yaml`"):
        open_source(str(bare), CPU, pytest.fail)
