import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from biggan.errors import CheckpointError
from biggan.runs import checkpoint
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.ring import PinnedCheckpoints, Ring, read_pins, write_pins
from biggan.training.state import host_copy

LAST = Ring(keep_last=1, horizon_steps=0, keep_every_steps=0, max_bytes=0)


def contents(value):
    return Checkpoint({"generator": {"w": torch.full((64,), value)}}, {"step": int(value)}, "run: {}\n")


def write(root, *steps):
    return [checkpoint.save(root, step, contents(float(step))) for step in steps]


def test_save_and_load_preserve_values_of_any_memory_format(tmp_path):
    x = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    folder = checkpoint.save(tmp_path, 7, Checkpoint({"a": {"x": host_copy(x)}}, {"k": [1]}, "c"))
    loaded = checkpoint.load(folder)
    assert torch.equal(loaded.tensors["a"]["x"], x)
    assert (loaded.state, loaded.config) == ({"k": [1]}, "c")
    assert folder.name == "step_00000007"


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda f: (f / "generator.safetensors").write_bytes((f / "generator.safetensors").read_bytes()[:-1]),
        lambda f: (f / "generator.safetensors").unlink(),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").write_text("{"),
        lambda f: (f / "manifest.json").write_text('{"files": []}'),
        lambda f: (f / "state.json").write_text((f / "state.json").read_text().replace("2", "3")),
    ],
)
def test_a_corrupt_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, corrupt):
    write(tmp_path, 1, 2)
    corrupt(tmp_path / "step_00000002")
    messages = []
    assert checkpoint.newest_complete(tmp_path, messages.append) == tmp_path / "step_00000001"
    (message,) = messages
    assert "step_00000002" in message
    assert "\n" not in message
    with pytest.raises(CheckpointError, match="step_00000002"):
        checkpoint.load(tmp_path / "step_00000002")


def test_one_flipped_bit_is_found(tmp_path):
    (folder,) = write(tmp_path, 1)
    data = bytearray((folder / "generator.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "generator.safetensors").write_bytes(data)
    assert "generator.safetensors" in checkpoint.find_corruption(folder)


def test_a_full_disk_leaves_no_partial_checkpoint_and_earlier_ones_complete(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with pytest.raises(CheckpointError, match=r"step_00000002: .*No space left"):
        write(tmp_path, 2)
    assert [f.name for f in tmp_path.iterdir()] == ["step_00000001"]
    assert checkpoint.find_corruption(tmp_path / "step_00000001") is None


def test_thin_keeps_the_newest_every_nth_and_pinned_checkpoints(tmp_path):
    write(tmp_path, *range(1, 10))
    write_pins(tmp_path, PinnedCheckpoints(3, {3: "why"}))
    checkpoint.thin(tmp_path, Ring(2, 0, 4, 0), pytest.fail)
    assert checkpoint.steps_on_disk(tmp_path) == [3, 4, 8, 9]
    checkpoint.thin(tmp_path, LAST, pytest.fail)
    assert checkpoint.steps_on_disk(tmp_path) == [3, 9]


def test_max_size_bytes_is_a_tight_upper_bound(tmp_path):
    tensors = {f"blocks.{k}.a_rather_long_name_of_a_weight": torch.zeros(3, 2, 1, 1) for k in range(200)}
    for k, value in enumerate((contents(1.0), Checkpoint({"a": tensors, "b": tensors}, {"bad": ["ä" * 999]}, "ä"))):
        written = checkpoint.bytes_in(checkpoint.save(tmp_path, k, value))
        assert written <= checkpoint.max_size_bytes(value) < written + 50 * 400 + 4096


def test_space_is_freed_before_a_checkpoint_is_written(tmp_path, monkeypatch):
    """At no time is the limit exceeded: three checkpoints, including the one being written."""
    large = Checkpoint({"generator": {"w": torch.zeros(9999)}}, {}, "")
    limit = 3 * checkpoint.max_size_bytes(large)
    held = []
    sync_file = checkpoint.sync_file

    def watch(path):
        held.append(checkpoint.bytes_in(tmp_path))
        sync_file(path)

    monkeypatch.setattr(checkpoint, "sync_file", watch)
    writer = Writer(tmp_path, Ring(5, 100, 0, limit), pytest.fail)
    for step in range(1, 9):
        writer.start(step, large)
        writer.wait()
    writer.close()
    assert limit * 0.9 < max(held) <= limit
    assert checkpoint.steps_on_disk(tmp_path) == [1, 7, 8]


def test_thin_warns_when_it_removes_a_pin_or_exceeds_the_limit(tmp_path):
    write(tmp_path, 1, 2, 3)
    for folder in write(tmp_path, 4, 5):
        folder.rename(f"{folder}.damaged")
    size = checkpoint.bytes_in(tmp_path / "step_00000001")
    write_pins(tmp_path, PinnedCheckpoints(2, {1: "earlier", 2: "why"}))
    warnings = []
    checkpoint.thin(tmp_path, Ring(3, 0, 0, 5 * size), warnings.append, size)
    assert [f.name for f in tmp_path.glob("*.damaged")] == ["step_00000005.damaged"]
    checkpoint.thin(tmp_path, Ring(1, 0, 0, 4 * size), warnings.append, size)
    assert warnings == []
    assert not [*tmp_path.glob("*.damaged")]
    checkpoint.thin(tmp_path, Ring(1, 0, 0, int(3.5 * size)), warnings.append, size)
    assert checkpoint.steps_on_disk(tmp_path) == [2, 3]
    assert read_pins(tmp_path) == PinnedCheckpoints(2, {2: "why"})
    (unpinned,) = warnings
    assert "checkpoint.max_gib: " in unpinned
    assert "step 1" in unpinned
    checkpoint.thin(tmp_path, Ring(1, 0, 0, 2 * size), warnings.append, size)
    assert checkpoint.steps_on_disk(tmp_path) == [2, 3]
    assert len(warnings) == 2
    assert "checkpoint.max_gib: " in warnings[1]
    assert " GiB" in warnings[1]


def test_pin_waits_for_the_write_in_progress(tmp_path, monkeypatch):
    """The write may be of the checkpoint to pin, and it removes other checkpoints when it is done."""
    reached = threading.Event()
    sync_file = checkpoint.sync_file

    def slow(path):
        reached.set()
        time.sleep(0.05)
        sync_file(path)

    write(tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint, "sync_file", slow)
    writer = Writer(tmp_path, LAST, pytest.fail)
    writer.start(3, contents(3.0))
    assert reached.wait(30)
    writer.pin(onset_step=4, good_step=3, reason="spread fell")
    writer.close()
    assert read_pins(tmp_path) == PinnedCheckpoints(3, {3: "before the collapse suspected from step 4 on: spread fell"})


def test_set_aside_after_sets_later_checkpoints_aside_and_removes_their_pins(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    write_pins(tmp_path, PinnedCheckpoints(3, {1: "a", 3: "b"}))
    checkpoint.set_aside_after(tmp_path, 2)
    assert checkpoint.steps_on_disk(tmp_path) == [1, 2]
    assert read_pins(tmp_path) == PinnedCheckpoints(None, {1: "a"})


def test_quarantined_checkpoints_do_not_count_as_kept(tmp_path):
    """Otherwise they would count among the newest, and complete checkpoints would be removed."""
    write(tmp_path, 1, 2, 3)
    checkpoint.quarantine_after(tmp_path, 1)
    write(tmp_path, 2)
    checkpoint.thin(tmp_path, LAST, pytest.fail)
    assert checkpoint.newest_complete(tmp_path, pytest.fail) == tmp_path / "step_00000002"


def test_other_folders_are_ignored(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step_00000001.bak").mkdir()
    assert checkpoint.steps_on_disk(tmp_path) == [1]


def test_leftovers_of_an_interrupted_save_are_ignored_and_removed(tmp_path):
    (folder,) = write(tmp_path, 1)
    folder.rename(tmp_path / ".step_00000002.partial")
    (tmp_path / "pinned.json.partial").write_text("{")
    assert checkpoint.newest_complete(tmp_path, pytest.fail) is None
    checkpoint.clean_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path):
    write(tmp_path, 3)
    checkpoint.save(tmp_path, 3, contents(8.0))
    assert checkpoint.load(tmp_path / "step_00000003").tensors["generator"]["w"][0] == 8
    assert json.loads((tmp_path / "step_00000003" / "manifest.json").read_text())["step"] == 3


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_it_complete(tmp_path, renames):
    """This happens when a run that has just resumed is stopped, and killed while it stops."""
    write(tmp_path, 3)
    child = os.fork()
    if child == 0:
        original, remaining = Path.rename, [renames]

        def rename(path, target):
            if not remaining[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            remaining[0] -= 1
            return original(path, target)

        Path.rename = rename
        checkpoint.save(tmp_path, 3, contents(3.0))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == (signal.SIGKILL if renames < 2 else 0)
    checkpoint.clean_up(tmp_path)
    newest = checkpoint.newest_complete(tmp_path, pytest.fail)
    assert newest is not None
    assert checkpoint.load(newest).tensors["generator"]["w"][0] == 3


def test_the_writer_is_isolated_from_the_state_and_holds_one_copy(tmp_path, monkeypatch):
    reached, proceed = threading.Event(), threading.Event()
    sync_file = checkpoint.sync_file

    def slow(path):
        reached.set()
        assert proceed.wait(30)
        sync_file(path)

    monkeypatch.setattr(checkpoint, "sync_file", slow)
    writer = Writer(tmp_path, LAST, pytest.fail)
    weight = torch.ones(3)
    writer.start(1, Checkpoint({"generator": {"w": host_copy(weight)}}, {}, ""))
    assert reached.wait(30)
    weight.fill_(7)
    assert checkpoint.steps_on_disk(tmp_path) == []
    with pytest.raises(AssertionError, match="wait first"):
        writer.start(2, contents(2.0))
    proceed.set()
    writer.wait()
    assert torch.equal(checkpoint.load(tmp_path / "step_00000001").tensors["generator"]["w"], torch.ones(3))
    writer.start(2, contents(2.0))
    writer.close()
    assert checkpoint.steps_on_disk(tmp_path) == [2]


def test_wait_raises_a_failed_write_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    writer = Writer(tmp_path, LAST, pytest.fail)
    writer.start(1, contents(1.0))
    with pytest.raises(CheckpointError, match="No space left"):
        writer.wait()
    writer.wait()
    writer.close()
