"""Files of a run that are gone, damaged or cannot be read: one line, and nothing is renamed, emptied or removed."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from biggan import json_file
from biggan.errors import CheckpointError, InputError, StoppedRun
from biggan.report.report_page import write_report
from biggan.report.run_record import read_record
from biggan.runs import checkpoint, lineage, rollback, run_folder
from biggan.runs.checkpoint import Checkpoint
from biggan.runs.checkpoint_writer import Writer
from biggan.runs.ring import PINNED, PinnedCheckpoints, Ring, best_steps, write_pins
from biggan.runs.rollback import Rollback
from biggan.startup import outside_code
from biggan.startup.start import newest_checkpoint

DAMAGED = {
    "empty": b"",
    "cut": b'{"count": 1, "to_',
    "a list": b"[]",
    "a number": b"1e999",
    "no keys": b"{}",
    "deep": b'{"a":' * 9999,
    "deep lists": b"[" * 100_000,
    "not UTF-8": b'{"count": 1, "to_step": 2, "good": 1, "pinned": {}, "parent": "\xff"}',
    "text for numbers": b'{"count": "1", "to_step": "2", "good": "3", "pinned": 4, "parent": 5, "step": "6"}',
    "truth values": b'{"count": true, "to_step": true, "good": true, "pinned": {}, "parent": "a", "step": true}',
    "negative": b'{"count": -1, "to_step": 2, "good": -1, "pinned": {}, "parent": "a", "step": -1, "changes": {}}',
    "huge": b'{"count": 1' + b"0" * 5000 + b', "to_step": 2, "good": 1e400, "pinned": {}}',
    "unknown keys": b'{"count": 1, "to_step": 2, "good": null, "pinned": {}, "x": 1}',
    "short changes": b'{"parent": "a", "step": 1, "changes": {"optimizer.g_lr": [1]}}',
}


def write(root, *steps, **state):
    for step in steps:
        checkpoint.save(root, step, Checkpoint({}, {"step": step} | state, "run: {}\n"))


def tree(folder):
    """Return every file of a folder and its bytes."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def run(tmp_path):
    """A run folder with checkpoints 2, 4 and 6."""
    folder = tmp_path / "a"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("run: {}\n")
    write(folder / "checkpoints", 2, 4, 6, rollbacks=0)
    return folder


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("file", ["manifest.json", "state.json", "config.yaml"])
def test_an_io_error_while_checking_a_checkpoint_stops_and_renames_nothing(run, monkeypatch, number, file):
    before, plain_bytes, plain_hash = tree(run), json_file.read_bytes, checkpoint.sha256_of

    def failing(read):
        def reading(path, *arguments):
            if path.name == file:
                raise OSError(number, "planted", str(path))
            return read(path, *arguments)

        return reading

    monkeypatch.setattr(json_file, "read_bytes", failing(plain_bytes))
    monkeypatch.setattr(checkpoint, "sha256_of", failing(plain_hash))
    with pytest.raises(CheckpointError, match=r"step_00000006.*planted") as stopped:
        newest_checkpoint(run, pytest.fail)
    assert "\n" not in str(stopped.value)
    assert tree(run) == before


def test_a_score_that_cannot_be_read_stops_the_removal_of_checkpoints(run, monkeypatch):
    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("biggan.runs.state_file.read_bytes", stale)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoint.thin(run / "checkpoints", Ring(1, 0, 0, 0, keep_best=1), pytest.fail)
    assert checkpoint.steps_on_disk(run / "checkpoints") == [2, 4, 6]


def test_a_run_without_a_complete_checkpoint_stops_and_renames_nothing(run):
    for step in (2, 4, 6):
        (run / f"checkpoints/step_{step:08d}/config.yaml").write_text("run: {x}")
    before = tree(run)
    with pytest.raises(CheckpointError, match=r"step_00000006: config\.yaml .*run\.dir"):
        newest_checkpoint(run, pytest.fail)
    assert tree(run) == before


def test_the_first_checkpoint_is_recorded_outside_the_checkpoints(run):
    assert newest_checkpoint(run, pytest.fail).name == "step_00000006"
    assert json.loads((run / run_folder.STARTED).read_text()) == {"step": 6}
    seen = []
    writer = Writer(run / "checkpoints", Ring(9, 0, 0, 0), pytest.fail, seen.append)
    writer.start(8, Checkpoint({}, {}, ""))
    writer.close()
    assert seen == [8]


def gone(run):
    shutil.rmtree(run / "checkpoints")


def unmounted(run):
    gone(run)
    (run / "checkpoints").mkdir()


def of_an_earlier_version(run):
    unmounted(run)
    (run / run_folder.STARTED).unlink()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')  # its first checkpoint may be that of a signal


def set_aside(run):
    (run / run_folder.STARTED).write_text('{"step": null}')
    for folder in (run / "checkpoints").glob("step_*"):
        folder.rename(f"{folder}.damaged")


@pytest.mark.slow
@pytest.mark.parametrize("lose", [gone, unmounted, of_an_earlier_version, set_aside])
def test_a_run_whose_checkpoints_are_gone_is_refused_and_not_emptied(tiny, tmp_path, undisturbed, run_command, lose):
    run = shutil.copytree(undisturbed(), tmp_path / "run")
    lose(run)
    before = tree(run)
    code, output = run_command("train", *tiny)
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("biggan: ")]
    assert "run.dir: " in line
    assert str(run / "checkpoints") in line
    assert "Traceback" not in output
    assert tree(run) == before


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(tiny, tmp_path, undisturbed, run_command):
    run = shutil.copytree(undisturbed(), tmp_path / "run")
    unmounted(run)
    (run / run_folder.STARTED).write_text('{"step": null}')
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    code, output = run_command("train", *tiny, "data.workers=0")
    assert code == 0, output
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]


# Rollbacks.


def test_every_flipped_bit_of_the_rollback_record_stops_the_run(run):
    root, file = run / "checkpoints", run / rollback.FILE
    rollback.begin(run, Rollback(1, 2))
    content = file.read_bytes()
    accepted = []
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            accepted.append(rollback.read(run) == Rollback(1, 2))
        except CheckpointError as error:
            assert str(file) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
    assert all(accepted), "a damaged record was read as another one"
    assert len(accepted) < 50, "white space between the tokens"
    file.write_bytes(content.replace(b'"count": 1', b'"count": 3'))
    before = tree(run)
    with pytest.raises(CheckpointError):
        newest_checkpoint(run, pytest.fail)
    assert tree(run) == before
    assert checkpoint.steps_on_disk(root) == [2, 4, 6]


def test_a_rollback_record_of_an_earlier_version_is_read(run):
    (run / "collapse").mkdir()
    (run / rollback.FILE).write_text('{"count": 1, "to_step": 2}\n')
    assert rollback.read(run) == Rollback(1, 2)


def test_abandoned_checkpoints_can_be_put_back_until_the_next_checkpoint(run):
    root = run / "checkpoints"
    contents = tree(root / "step_00000006")
    rollback.begin(run, Rollback(1, 2))
    for _ in range(2):  # the second time, as a run that is resumed
        rollback.finish(run, root)
        assert sorted(f.name for f in root.glob("step_*")) == [
            "step_00000002", "step_00000004.abandoned", "step_00000006.abandoned",
        ]  # fmt: skip
    assert tree(root / "step_00000006.abandoned") == contents
    writer = Writer(root, Ring(9, 0, 0, 0), pytest.fail)
    writer.start(3, Checkpoint({}, {"step": 3, "rollbacks": 1}, ""))
    writer.close()
    assert sorted(f.name for f in root.glob("step_*")) == ["step_00000002", "step_00000003"]


def test_abandoned_checkpoints_count_against_the_limit(run):
    root = run / "checkpoints"
    checkpoint.set_aside_after(root, 2)
    size = checkpoint.bytes_in(root / "step_00000002")
    checkpoint.thin(root, Ring(9, 0, 0, int(2.5 * size)), pytest.fail)
    assert sorted(f.name for f in root.glob("step_*")) == ["step_00000002", "step_00000006.abandoned"]


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda folder: (folder / "state.json").write_text("{}")])
def test_a_rollback_to_a_lost_checkpoint_sets_nothing_aside(run, damage):
    rollback.begin(run, Rollback(1, 2))
    damage(run / "checkpoints/step_00000002")
    before = tree(run)
    with pytest.raises(CheckpointError, match=r"step_00000002.*rollbacks\.json"):
        newest_checkpoint(run, pytest.fail)
    assert tree(run) == before


def test_a_state_unlike_its_manifest_decides_nothing(run):
    """Its count of rollbacks and its score are as doubtful as its tensors."""
    state = run / "checkpoints/step_00000006/state.json"
    scored = {"evaluation": {"metric": "fid", "metrics": {"fid": 1.0}, "protocol": {}}}
    state.write_text(json.dumps({"step": 6, "rollbacks": 3} | scored))
    assert rollback.rollback_count(run / "checkpoints", 6) is None
    assert best_steps([state], 1) == []


# Small files.


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_small_file_is_one_line(run, name):
    write_pins(run / "checkpoints", PinnedCheckpoints(2, {2: "why"}))
    good = (run / "checkpoints" / PINNED).read_bytes()
    (run / "collapse").mkdir()
    for file, read, kind in (
        (run / rollback.FILE, lambda: newest_checkpoint(run, pytest.fail), CheckpointError),
        (run / "checkpoints" / PINNED, lambda: newest_checkpoint(run, pytest.fail), CheckpointError),
        (run / "checkpoints" / PINNED, lambda: lineage.find_ancestor(f"{run}@good", "--resume"), CheckpointError),
        (run / "lineage.json", lambda: lineage.tags(run), InputError),
        (run / run_folder.STARTED, lambda: run_folder.evidence_of_checkpoints(run), InputError),
        (run / "lineage.json", lambda: lineage.existing_child_config("a@1", run, []), InputError),
        (run / outside_code.FILE, lambda: outside_code.read(run), InputError),
    ):
        file.write_bytes(DAMAGED[name])
        before = tree(run)
        with pytest.raises(StoppedRun) as stopped:
            read()
        assert type(stopped.value) is kind
        assert str(file) in str(stopped.value)
        assert "\n" not in str(stopped.value)
        assert tree(run) == before
        if file.name == PINNED:
            file.write_bytes(good)
        else:
            file.unlink()


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("file", ["manifest.json", "state.json"])
def test_a_checkpoint_with_a_damaged_small_file_is_corrupt(run, name, file):
    folder = run / "checkpoints/step_00000006"
    (folder / file).write_bytes(DAMAGED[name])
    assert file in checkpoint.find_corruption(folder)
    messages = []
    assert newest_checkpoint(run, messages.append).name == "step_00000004"
    assert len(messages) == 1


@pytest.mark.parametrize("files", [{}, {"../config.yaml": {"bytes": 8, "sha256": ""}}])
def test_a_manifest_that_lists_no_checkpoint_is_damaged(run, files):
    folder = run / "checkpoints/step_00000006"
    listed = json.loads((folder / "manifest.json").read_text())["files"] if files else {}
    (folder / "manifest.json").write_text(json.dumps({"files": listed | files}))
    assert "manifest.json" in checkpoint.find_corruption(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "6"},
        {"cursors": [[0, 0]]},
        {"cursors": [[0, 0, -1]]},
        {"classes": 3},
        {"level": "x"},
        {"rollbacks": []},
    ],
)
def test_a_state_of_other_types_is_one_line(tmp_path, change):
    checkpoint.save(tmp_path, 1, Checkpoint({}, {"step": 1} | change, ""))
    with pytest.raises(CheckpointError, match=next(iter(change))) as stopped:
        checkpoint.load(tmp_path / "step_00000001")
    assert "\n" not in str(stopped.value)


def test_a_named_pipe_and_a_folder_are_no_files(run):
    os.mkfifo(run / "lineage.json")
    with pytest.raises(InputError, match=r"lineage\.json"):
        lineage.tags(run)
    (run / rollback.FILE).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"rollbacks\.json"):
        rollback.read(run)


@pytest.mark.parametrize("name", DAMAGED)
def test_the_report_passes_over_damaged_files(run, name):
    (run / "collapse").mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "g_loss": 1.0}\n{"step": 2, "g_loss": 0.5}\n')
    for file in ("lineage.json", "checkpoints/pinned.json", "collapse/rollbacks.json", "config.yaml", "init.json"):
        (run / file).write_bytes(DAMAGED[name])
    for file in ("collapse/events.jsonl", "collapse/attempt_01.jsonl", "metrics.jsonl"):
        with (run / file).open("ab") as stream:
            stream.write(
                DAMAGED[name] + b'\n{"step": 3, "g_loss": 1' + b"0" * 400 + b', "reasons": {}}\n{"step": true}\n'
            )
    write_report(run)
    assert read_record(run).step == 3


def test_a_folder_without_permission_is_one_line(tmp_path, run_command, monkeypatch):
    """The tests may run as root, to whom every file is readable."""
    plain = Path.is_file

    def denied(path):
        if path.name == "config.yaml":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "is_file", denied)
    code, output = run_command("report", tmp_path)
    assert code == 2
    assert output.count("\n") == 1
    assert f"biggan: {tmp_path}: cannot be read" in output
