"""A damaged or lying dataset.json is refused in one line by every command that reads it."""

import errno
import json
import os
import shutil

import pytest

from biggan.data.dataset import load
from biggan.errors import InputError
from biggan.runs import run_folder

TRILLION = 10**12


def set_to(value, *path):
    """Return a function that sets the value at `path` in a tree."""

    def change(tree):
        *holders, last = path
        for key in holders:
            tree = tree[key]
        tree[last] = value

    return change


def remove(key):
    return lambda tree: tree.pop(key)


def a_trillion_images(tree):
    """Every sum holds."""
    train = tree["splits"]["train"]
    more = TRILLION - train["shards"][0]["images"]
    train["shards"][0]["images"] = TRILLION
    for holder in (train, tree):
        holder["images"] += more
        holder["class_counts"][0] += more


def in_bytes_enough(tree):
    a_trillion_images(tree)
    tree["splits"]["train"]["shards"][0]["bytes"] = 10**4 * TRILLION


def one_shard_twice(tree):
    shards = tree["splits"]["train"]["shards"]
    shards[0] |= {"name": shards[1]["name"]}


def one_shard_also_held_out(tree):
    train = tree["splits"]["train"]
    tree["splits"]["val"] = train
    tree["images"] *= 2
    tree["class_counts"] = [2 * count for count in tree["class_counts"]]


def counts_of_splits_lie(tree):
    tree["class_counts"][0] += 1
    tree["class_counts"][1] -= 1


def a_folder(tree):
    tree["splits"]["train"]["shards"][0]["name"] = "."


FIRST = ("splits", "train", "shards", 0)
CHANGES = {
    "resolution negative": set_to(-1, "resolution"),
    "resolution 0": set_to(0, "resolution"),
    "resolution text": set_to("32", "resolution"),
    "resolution fraction": set_to(32.5, "resolution"),
    "resolution a truth value": set_to(True, "resolution"),
    "resolution huge": set_to(10**30, "resolution"),
    "resolution absent": remove("resolution"),
    "splits none": set_to({}, "splits"),
    "splits absent": remove("splits"),
    "splits a list": set_to([], "splits"),
    "splits null": set_to(None, "splits"),
    "splits without train": lambda tree: tree["splits"].update(val=tree["splits"].pop("train")),
    "splits without shards": set_to([], "splits", "train", "shards"),
    "splits with a shard twice": one_shard_twice,
    "splits that share a shard": one_shard_also_held_out,
    "images fewer": set_to(1, "images"),
    "images negative": set_to(-1797, "images"),
    "images text": set_to("many", "images"),
    "images of a split": set_to(1, "splits", "train", "images"),
    "images of a shard": set_to(1, *FIRST, "images"),
    "images of a shard negative": set_to(-5, *FIRST, "images"),
    "images of a shard a trillion": a_trillion_images,
    "class_counts lie": counts_of_splits_lie,
    "class_counts negative": set_to(-1, "class_counts", 0),
    "class_counts of a split negative": set_to(-1, "splits", "train", "class_counts", 0),
    "class_counts short": lambda tree: tree["class_counts"].pop(),
    "class_counts of a split short": lambda tree: tree["splits"]["train"]["class_counts"].pop(),
    "classes none": set_to([], "classes"),
    "classes a number": set_to(10, "classes"),
    "classes numbers": set_to(list(range(10)), "classes"),
    "channels 2": set_to(2, "channels"),
    "format of a later version": set_to(2, "format"),
    "x unknown": set_to(1, "x"),
    "name empty": set_to("", *FIRST, "name"),
    "name with a null": set_to("a\0b.tar", *FIRST, "name"),
    "name very long": set_to("a" * 5000, *FIRST, "name"),
    "sha256 cut": set_to("abc", *FIRST, "sha256"),
    "bytes negative": set_to(-1, *FIRST, "bytes"),
}
CONTENTS = {
    "empty": b"",
    "cut": b'{"format": 1, "sour',
    "a list": b"[]",
    "a number": b"1e999",
    "no keys": b"{}",
    "deep": b'{"a":' * 9999,
    "deep lists": b"[" * 100_000,
    "not UTF-8": b'{"source": "\xff"}',
    "a number of 5,000 digits": b'{"images": ' + b"9" * 5000 + b"}",
}


def refused(run_command, *arguments, names):
    code, output = run_command(*arguments)
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("biggan: ")]
    assert all(name in line for name in names), line
    assert len(line) < 1000


@pytest.fixture
def copy(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "copy")
    return tmp_path / "copy"


def damaged(folder):
    """Yield a name of each damage after it has been done to dataset.json."""
    file = folder / "dataset.json"
    sound = file.read_text()
    for name, content in CONTENTS.items():
        file.write_bytes(content)
        yield name
    for name, change in CHANGES.items():
        tree = json.loads(sound)
        change(tree)
        file.write_text(json.dumps(tree))
        yield name


def test_a_damaged_dataset_json_is_refused_by_file_and_key(copy):
    for name in damaged(copy):
        key = "dataset.json" if name in CONTENTS else name.partition(" ")[0]
        with pytest.raises(InputError, match=rf"^{copy}/dataset\.json: .*; pack the data set again") as error:
            load(copy)
        assert key in str(error.value), name
        assert len(str(error.value)) < 1000


def test_a_resume_refuses_a_damaged_record_of_its_data(copy):
    for _ in damaged(copy):
        with pytest.raises(InputError, match=rf"^{copy}/dataset\.json: .*; restore it"):
            run_folder.read_dataset_record(copy)


@pytest.mark.parametrize("name", ["resolution negative", "splits none", "images of a shard a trillion", "deep"])
def test_commands_refuse_it_in_one_line(copy, tiny, tmp_path, name, run_command):
    for damage in damaged(copy):
        if damage == name:
            break
    for command in (["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]):
        refused(run_command, *command, names=[f"{copy}/dataset.json: "])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "tiny.yaml"]
    assert not (copy / "contact_sheet.png").exists()


@pytest.mark.parametrize("change", [in_bytes_enough, a_folder])
def test_shards_that_are_not_as_described_are_refused(copy, tiny, change, run_command):
    tree = json.loads((copy / "dataset.json").read_text())
    change(tree)
    (copy / "dataset.json").write_text(json.dumps(tree))
    for command in (["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]):
        refused(run_command, *command, names=[f"{copy}"])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["dataset.json", "train-00003.tar"])
def test_files_that_cannot_be_read_are_one_line(copy, tiny, name, number, run_command, monkeypatch):
    original = os.open

    def fails(path, *arguments, **options):
        if os.fspath(path) == str(copy / name):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fails)
    for command in (["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]):
        refused(run_command, *command, names=[str(copy / name), os.strerror(number)])


def test_a_named_pipe_in_place_of_a_file_is_refused_at_once(copy, tiny, run_command):
    for name in ("train-00003.tar", "dataset.json"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
        for command in (["data", copy], ["train", tiny[0], tiny[1], f"data.path={copy}"]):
            refused(run_command, *command, names=[str(copy), name])


def test_a_source_without_readable_training_images_is_not_a_data_set(tmp_path, run_command):
    """Only the held-out image can be read."""
    from PIL import Image  # noqa: PLC0415

    (tmp_path / "p" / "a").mkdir(parents=True)
    for k in range(2):
        (tmp_path / "p" / "a" / f"{k}.png").write_bytes(b"")
    from packs import plan  # noqa: PLC0415

    from biggan.data.pack import split_entries  # noqa: PLC0415

    held_out = split_entries(plan(tmp_path / "p", val_fraction=0.5))["val"][0].item
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "a" / f"{held_out}.png")
    arguments = ("--resolution", 32, "--val-fraction", 0.5, "--workers", 1)
    refused(run_command, "pack", tmp_path / "p", tmp_path / "d", *arguments, names=[f"{tmp_path}/p: "])
    assert not (tmp_path / "d" / "dataset.json").exists()
