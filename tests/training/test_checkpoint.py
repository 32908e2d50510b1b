import errno
import json
import threading

import pytest
import torch

from biggan.errors import CheckpointError
from biggan.training import checkpoint
from biggan.training.checkpoint import Checkpoint, Writer
from biggan.training.state import host_copy


def contents(value):
    return Checkpoint({"generator": {"w": torch.full((64,), value)}}, {"step": int(value)}, "run: {}\n")


def write(root, *steps):
    return [checkpoint.save(root, step, contents(float(step))) for step in steps]


def test_round_trip_keeps_bits_and_layout_independent_values(tmp_path):
    x = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    folder = checkpoint.save(tmp_path, 7, Checkpoint({"a": {"x": host_copy(x)}}, {"k": [1]}, "c"))
    loaded = checkpoint.load(folder)
    assert torch.equal(loaded.tensors["a"]["x"], x)
    assert (loaded.state, loaded.config) == ({"k": [1]}, "c")
    assert folder.name == "step_00000007"


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: (f / "generator.safetensors").write_bytes((f / "generator.safetensors").read_bytes()[:-1]),
        lambda f: (f / "generator.safetensors").unlink(),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").write_text("{"),
        lambda f: (f / "manifest.json").write_text('{"files": []}'),
        lambda f: (f / "state.json").write_text((f / "state.json").read_text().replace("2", "3")),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, harm):
    write(tmp_path, 1, 2)
    harm(tmp_path / "step_00000002")
    said = []
    assert checkpoint.newest_whole(tmp_path, said.append) == tmp_path / "step_00000001"
    assert len(said) == 1
    assert "step_00000002" in said[0]
    with pytest.raises(CheckpointError, match="step_00000002"):
        checkpoint.load(tmp_path / "step_00000002")


def test_one_flipped_bit_is_damage(tmp_path):
    (folder,) = write(tmp_path, 1)
    data = bytearray((folder / "generator.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "generator.safetensors").write_bytes(data)
    assert "generator.safetensors is damaged" in checkpoint.damage(folder)


def test_a_full_disk_leaves_nothing_behind_and_the_earlier_ones_whole(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with pytest.raises(CheckpointError, match=r"step_00000002: .*No space left"):
        write(tmp_path, 2)
    assert [f.name for f in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.damage(tmp_path / "step_00000001") is None


def test_keeps_the_last_k_and_every_nth(tmp_path):
    write(tmp_path, *range(1, 10))
    checkpoint.thin(tmp_path, keep_last=2, keep_every_steps=4)
    assert checkpoint.steps_on_disk(tmp_path) == [4, 8, 9]
    checkpoint.thin(tmp_path, keep_last=1, keep_every_steps=0)
    assert checkpoint.steps_on_disk(tmp_path) == [9]


def test_going_on_before_damaged_checkpoints_sets_them_aside(tmp_path):
    """Else they would count among the newest that are kept, and the good ones be removed for them."""
    write(tmp_path, 1, 2, 3)
    checkpoint.set_aside_after(tmp_path, 1)
    write(tmp_path, 2)
    checkpoint.thin(tmp_path, keep_last=1, keep_every_steps=0)
    assert checkpoint.newest_whole(tmp_path, pytest.fail) == tmp_path / "step_00000002"


def test_other_folders_are_left_alone(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step_00000001.bak").mkdir()
    assert checkpoint.steps_on_disk(tmp_path) == [1]


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_cleaned_up(tmp_path):
    (folder,) = write(tmp_path, 1)
    folder.rename(tmp_path / ".step_00000002.partial")
    assert checkpoint.newest_whole(tmp_path, pytest.fail) is None
    checkpoint.clean_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_step_can_be_saved_again(tmp_path):
    write(tmp_path, 3)
    checkpoint.save(tmp_path, 3, contents(8.0))
    assert checkpoint.load(tmp_path / "step_00000003").tensors["generator"]["w"][0] == 8
    assert json.loads((tmp_path / "step_00000003" / "manifest.json").read_text())["step"] == 3


def test_training_may_change_the_state_while_it_is_written_and_holds_one_copy_at_a_time(tmp_path, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    sync_file = checkpoint.sync_file

    def slow(path):
        reached.set()
        assert go_on.wait(30)
        sync_file(path)

    monkeypatch.setattr(checkpoint, "sync_file", slow)
    writer = Writer(tmp_path, keep_last=1, keep_every_steps=0)
    weight = torch.ones(3)
    writer.start(1, Checkpoint({"generator": {"w": host_copy(weight)}}, {}, ""))
    assert reached.wait(30)
    weight.fill_(7)
    assert checkpoint.steps_on_disk(tmp_path) == []
    with pytest.raises(AssertionError, match="wait first"):
        writer.start(2, contents(2.0))
    go_on.set()
    writer.wait()
    assert torch.equal(checkpoint.load(tmp_path / "step_00000001").tensors["generator"]["w"], torch.ones(3))
    writer.start(2, contents(2.0))
    writer.close()
    assert checkpoint.steps_on_disk(tmp_path) == [2]


def test_a_failed_write_is_raised_once_by_whoever_asks_next(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    writer = Writer(tmp_path, keep_last=1, keep_every_steps=0)
    writer.start(1, contents(1.0))
    with pytest.raises(CheckpointError, match="No space left"):
        writer.wait()
    writer.wait()
    writer.close()
