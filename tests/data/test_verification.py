"""Shards that are not those of dataset.json are refused by every command; files that have not changed are not read."""

import json
import os
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from packs import pictures, plan, run, samples
from runs import pack_digits

from biggan.data import pack as packing
from biggan.data.dataset import load
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.progress import silent


def flip_labels(shard):
    """Change every label of a shard in place; the size stays."""
    with tarfile.open(shard) as tar:
        places = [member.offset_data for member in tar if member.name.endswith(".cls")]
    with shard.open("r+b") as file:
        for place in places:
            file.seek(place)
            label = int(file.read(1))
            file.seek(place)
            file.write(str((label + 1) % 10).encode())


def swap(a, b):
    """Exchange the names of two files; all of their times are then equal."""
    aside = a.with_suffix(".aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    for file in (a, b):
        os.utime(file, ns=(10**18, 10**18))


def edit(folder, change):
    """Apply `change` to the content of dataset.json."""
    file = folder / "dataset.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refused(run_command, *arguments, names):
    """Run a command; check that it ends with exit code 2 and one line with these parts."""
    code, output = run_command(*arguments)
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("biggan: ")]
    for name in names:
        assert name in line, (name, line)


@pytest.fixture
def copy(digits, tmp_path):
    return Path(shutil.copytree(digits, tmp_path / "copy"))


@pytest.fixture
def fresh(tmp_path):
    """A data set that this test has packed, where it is."""
    pack_digits(tmp_path / "fresh")
    return tmp_path / "fresh"


def with_data(tiny, folder, *overrides):
    return ["train", tiny[0], tiny[1], f"data.path={folder}", "training.steps=1", *overrides]


def test_labels_flipped_in_place_are_refused_by_every_command(fresh, tiny, tmp_path, run_command):
    for shard in fresh.glob("*.tar"):
        flip_labels(shard)
    shard = f"{fresh}/train-00000.tar: "
    refused(run_command, "data", fresh, names=[shard])
    assert not (fresh / "contact_sheet.png").exists()
    refused(run_command, *with_data(tiny, fresh), names=[shard])
    assert not (tmp_path / "run").exists()


def test_wrong_sizes_and_checksums_in_dataset_json_are_refused(fresh, tiny, run_command):
    sound = (fresh / "dataset.json").read_bytes()
    for key, value in (("bytes", 10**6), ("sha256", "0" * 64)):

        def change(content, key=key, value=value):
            content["splits"]["train"]["shards"][3][key] = value

        edit(fresh, change)
        for command in (["data", fresh], with_data(tiny, fresh)):
            refused(run_command, *command, names=[f"{fresh}/train-00003.tar: ", "dataset.json"])
        (fresh / "dataset.json").write_bytes(sound)


def test_a_copy_that_was_damaged_is_refused(copy, run_command):
    """Also if the shard is older than dataset.json, as after `cp -a` of a damaged set."""
    flip_labels(copy / "train-00005.tar")
    os.utime(copy / "train-00005.tar", ns=(10**18, 10**18))
    refused(run_command, "data", copy, names=["train-00005.tar: "])


def test_shards_changed_between_two_resumes_are_refused(copy, tiny, run_command):
    """Swapped shards have equal times, and equal sizes: tar pads to 10,240 bytes."""
    assert run_command(*with_data(tiny, copy))[0] == 0
    sizes = {}
    for file in sorted(copy.glob("*.tar")):
        sizes.setdefault(file.stat().st_size, []).append(file)
    first, second = next(files for files in sizes.values() if len(files) > 1)[:2]
    swap(first, second)
    refused(run_command, *with_data(tiny, copy, "training.steps=2"), names=[f"{first}: "])
    swap(first, second)
    flip_labels(second)
    refused(run_command, *with_data(tiny, copy, "training.steps=2"), names=[f"{second}: "])


def test_the_runs_record_of_its_shards_decides_on_a_resume(copy, tiny, tmp_path, run_command):
    """The data set stays consistent, but is not the one that the run was trained on."""
    assert run_command(*with_data(tiny, copy))[0] == 0
    sound = (copy / "dataset.json").read_bytes()

    def swap_names(content):
        a, b = content["splits"]["train"]["shards"][:2]
        a["name"], b["name"] = b["name"], a["name"]

    swap(copy / "train-00000.tar", copy / "train-00001.tar")
    edit(copy, swap_names)
    again = with_data(tiny, copy, "training.steps=2")
    refused(run_command, *again, names=[f"data.path: {copy} ", str(tmp_path / "run")])
    swap(copy / "train-00000.tar", copy / "train-00001.tar")
    (copy / "dataset.json").write_bytes(sound)
    record = tmp_path / "run" / "dataset.json"
    for content in (b"", b"{}", record.read_bytes()[:-100]):
        record.write_bytes(content)
        refused(run_command, *again, names=[f"{record}: ", "restore it"])
    record.unlink()
    refused(run_command, *again, names=[f"{record}: ", "restore it"])


@pytest.fixture
def read(monkeypatch):
    """Names of the shards whose bytes were read for a checksum."""
    from biggan.data import verification  # noqa: PLC0415  (what it tests is new)

    names, checksum = [], verification.sha256_of
    monkeypatch.setattr(verification, "sha256_of", lambda file: names.append(file.name) or checksum(file))
    return names


def test_shards_are_read_once_for_their_checksums(fresh, copy, tiny, run_command, read):
    assert run_command("data", fresh)[0] == 0
    assert read == [], "pack has listed them"
    assert run_command(*with_data(tiny, copy))[0] == 0
    assert len(read) == 12, "a copy may be damaged"
    code, output = run_command(*with_data(tiny, copy, "training.steps=2"))
    assert (code, len(read)) == (0, 12), output
    (copy / "train-00004.tar").touch()
    assert run_command(*with_data(tiny, copy, "training.steps=3"))[0] == 0
    assert read[12:] == ["train-00004.tar"]
    code, output = run_command("data", copy, "--verify")
    assert (code, len(read)) == (0, 25), "all of them, whether changed or not"
    assert f"{copy}: 12 shards" in output
    assert run_command("data", copy)[0] == 0
    assert len(read) == 25


def test_verify_counts_the_labels_of_the_shards(copy, run_command):
    """Counts that lie consistently."""
    sound = (copy / "dataset.json").read_bytes()
    train = load(copy).splits["train"]

    def move(content):
        for counts in (content["class_counts"], content["splits"]["train"]["class_counts"]):
            counts[0], counts[1] = counts[1], counts[0]

    def leave_out(content):
        shard = content["splits"]["train"]["shards"][0]
        for holder in (content, content["splits"]["train"]):
            holder["images"] -= 1
            holder["class_counts"][0] -= 1
        shard["images"] -= 1

    assert train.class_counts[0] != train.class_counts[1]
    for change, names in ((move, ["splits.train.class_counts"]), (leave_out, ["train-00000.tar"])):
        edit(copy, change)
        refused(run_command, "data", copy, "--verify", names=["dataset.json: ", *names])
        (copy / "dataset.json").write_bytes(sound)


def test_a_data_set_that_cannot_be_written_is_verified_all_the_same(copy, run_command, monkeypatch):
    def refuse(path, content):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("biggan.files.write_atomically", refuse)
    code, output = run_command("data", copy, "--verify", "--out", copy.parent / "sheet.png")
    assert code == 0, output
    assert "Read-only file system" in output


def test_a_finished_shard_that_changed_is_packed_again(tmp_path, monkeypatch):
    source = pictures(tmp_path / "p")
    expected = run(plan(source), tmp_path / "whole")
    calls, original = [], packing.pack_shard

    def interrupted(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(packing, "pack_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plan(source), tmp_path / "d")
    flip_labels(tmp_path / "d" / "train-00000.tar")
    monkeypatch.setattr(packing, "pack_shard", original)
    assert run(plan(source), tmp_path / "d").splits == expected.splits
    assert samples(tmp_path / "d").keys() == samples(tmp_path / "whole").keys()
    assert all(samples(tmp_path / "d")[k][0] == label for k, (label, _) in samples(tmp_path / "whole").items())


@dataclass(frozen=True)
class Threaded(Process):
    """A process among several, all of them threads of this one."""

    shared: list = None
    barrier: threading.Barrier = None

    def gather(self, value):
        self.shared[self.rank] = value
        self.barrier.wait(60)
        values = list(self.shared)
        self.barrier.wait(60)
        return values


def together(hosts, act):
    """Return `act(process)` of every rank."""
    shared, barrier = [None] * len(hosts), threading.Barrier(len(hosts))
    ranks = [
        Threaded(rank, len(hosts), torch.device("cpu"), None, hosts=hosts, shared=shared, barrier=barrier)
        for rank in range(len(hosts))
    ]
    with ThreadPoolExecutor(len(hosts)) as pool:
        return [future.result() for future in [pool.submit(act, process) for process in ranks]]


def test_several_processes_divide_the_reading(copy, read):
    """Three processes on two hosts that share the file system."""
    from biggan.data.verification import verified  # noqa: PLC0415  (as above)

    dataset = load(copy)
    found = together(("a", "a", "b"), lambda process: verified(str(copy), dataset, set(), process, silent))
    assert sorted(read) == [f"train-{k:05d}.tar" for k in range(12)]
    assert found[0] == found[1] == found[2]
    assert len(found[0].verified) == 12
    flip_labels(copy / "train-00007.tar")

    def error(process):
        with pytest.raises(InputError) as raised:
            verified(str(copy), dataset, set(found[0].verified), process, silent)
        return str(raised.value)

    assert all(f"{copy}/train-00007.tar: " in message for message in together(("a", "b"), error))
