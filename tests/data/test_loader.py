"""Global batches depend on the config alone and resume exactly; corrupt shards are named and skipped."""

import io
import os
import pickle
import shutil
import tarfile
import threading
import time
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest
import torch
from reads import plan

from biggan.data.dataset import load
from biggan.data.loader import Loader
from biggan.data.stream import START, Cursor, read_dataset
from biggan.distributed.timeout import wait_for_other_threads
from biggan.errors import DataError, InputError

BATCH = 12


def loaders(the_plan, world_size=1, workers=0, cursors=None):
    cursors = cursors or [START] * the_plan.streams
    return [
        Loader(the_plan, micro_batch_size=BATCH, cursors=cursors, rank=rank, world_size=world_size, workers=workers)
        for rank in range(world_size)
    ]


def global_batches(ranks, count):
    """Return (images, labels, names) of `count` global batches, concatenated over the ranks."""
    slices = [[(images.clone(), labels, rank.names) for images, labels in islice(rank, count)] for rank in ranks]
    return [
        (
            torch.cat([s[k][0] for s in slices]),
            torch.cat([s[k][1] for s in slices]),
            [n for s in slices for n in s[k][2]],
        )
        for k in range(count)
    ]


def assert_same(batches, expected):
    assert [b[2] for b in batches] == [e[2] for e in expected]
    for batch, reference in zip(batches, expected, strict=True):
        assert torch.equal(batch[0], reference[0])
        assert torch.equal(batch[1], reference[1])


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 4), (2, 0), (2, 3), (3, 1), (6, 0)])
def test_global_batches_do_not_depend_on_ranks_and_readers(digits, world_size, workers):
    expected = global_batches(loaders(plan(digits)), 20)
    assert_same(global_batches(loaders(plan(digits), world_size, workers), 20), expected)


def test_more_readers_than_cpus_give_no_warning(digits, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (loader,) = loaders(plan(digits), workers=2)
        loader.close()
    assert [str(one.message) for one in caught] == []


@pytest.mark.parametrize("stop", [1, 19, 20, 21, 150, 160])
def test_resume_from_cursors_is_exact_with_another_world_size(digits, stop):
    """Mid-block, at the end of a block (40 samples, 2 per batch: batch 20), and in epoch 1 (from batch 146)."""
    expected = global_batches(loaders(plan(digits)), stop + 15)[stop:]
    ranks = loaders(plan(digits), world_size=2, workers=2)
    global_batches(ranks, stop)
    cursors = [cursor for loader in ranks for cursor in loader.cursors]
    assert_same(global_batches(loaders(plan(digits), world_size=3, cursors=cursors), 15), expected)


def test_every_stream_reads_every_sample_of_its_epoch_once(digits):
    (loader,) = loaders(plan(digits))
    names = []
    for _ in loader:
        names += loader.names
        if all(cursor.epoch >= 2 for cursor in loader.cursors):
            break
    counts = {name: names.count(name) for name in set(names)}
    # Streams are independent: some have started epoch 2 when the last one ends epoch 1.
    assert len(counts) == 1797
    assert set(counts.values()) <= {2, 3}


def test_epoch_seed_and_flip_change_batches_reproducibly(digits):
    first = global_batches(loaders(plan(digits)), 1)[0]
    again = global_batches(loaders(plan(digits)), 1)[0]
    later = global_batches(loaders(plan(digits), cursors=[Cursor(1, 0, 0)] * 6), 1)[0]
    other = global_batches(loaders(plan(digits, seed=1)), 1)[0]
    unflipped = global_batches(loaders(plan(digits, horizontal_flip=False)), 1)[0]
    assert_same([again], [first])
    assert first[2] != later[2]
    assert first[2] != other[2]
    assert first[2] == unflipped[2]
    mirrored = [
        torch.equal(a, b.flip(2)) and not torch.equal(a, b) for a, b in zip(first[0], unflipped[0], strict=True)
    ]
    same = [torch.equal(a, b) for a, b in zip(first[0], unflipped[0], strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < BATCH


def test_batches_are_uint8_in_channels_last_memory(digits):
    images, labels, _ = global_batches(loaders(plan(digits)), 1)[0]
    assert (images.dtype, images.shape, labels.dtype) == (torch.uint8, (BATCH, 3, 32, 32), torch.int64)
    images, _ = next(iter(loaders(plan(digits))[0]))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def damaged(digits, tmp_path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "damaged"))


def read_two_epochs(folder, **settings):
    """Return the names read in two epochs, and the bad samples by name."""
    (loader,) = loaders(plan(folder, **settings))
    names = set()
    for _ in loader:
        names |= set(loader.names)
        if all(cursor.epoch >= 2 for cursor in loader.cursors):
            break
    return names, loader.bad


def test_corrupt_image_is_named_and_skipped(damaged):
    shard = damaged / "train-00003.tar"
    with tarfile.open(shard) as tar:
        member = tar.getmembers()[10]
    with shard.open("r+b") as file:
        file.seek(member.offset_data + 20)
        file.write(b"\0" * 60)
    names, bad = read_two_epochs(damaged)
    assert list(bad) == [f"train-00003.tar/{member.name.split('.')[0]}"]
    assert len(names) == 1796


@pytest.mark.parametrize("where", ["data", "header"])
def test_samples_lost_by_truncation_are_counted_against_dataset_json(damaged, where):
    """webdataset ends silently at a truncated header; every lost sample is still counted."""
    shard = damaged / "train-00003.tar"
    declared = {s.name: s.images for s in load(damaged).splits["train"].shards}[shard.name]
    with tarfile.open(shard) as tar:
        member = tar.getmembers()[-8]  # the image of the fourth sample from the end
    with shard.open("r+b") as file:
        file.truncate(member.offset_data + 30 if where == "data" else member.offset + 30)
    names, bad = read_two_epochs(damaged)
    lost = [name for name in bad if name.startswith("train-00003.tar")]
    assert len(lost) == 4
    assert len(names) == 1797 - 4
    assert f"train-00003.tar#{declared - 1}" in lost


def test_resume_inside_a_truncated_stream_is_exact(damaged):
    shard = damaged / "train-00003.tar"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 12_000)
    the_plan = plan(damaged, max_bad_samples=100)
    expected = global_batches(loaders(the_plan), 160)
    (loader,) = loaders(the_plan)
    global_batches([loader], 100)
    assert_same(global_batches(loaders(the_plan, cursors=loader.cursors), 60), expected[100:])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_raise_and_name_the_first(damaged, workers):
    shard = damaged / "train-00003.tar"
    with shard.open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(DataError, match=r"data\.max_bad_samples: .*\b10\b.*train-00003\.tar"):
        global_batches(loaders(plan(damaged), workers=workers), 300)


@pytest.mark.parametrize("workers", [0, 2])
def test_missing_shard_raises_and_is_named(damaged, workers):
    the_plan = plan(damaged)
    (damaged / "train-00003.tar").unlink()
    with pytest.raises(DataError, match=r"train-00003\.tar: .*missing"):
        global_batches(loaders(the_plan, workers=workers), 300)


def test_nothing_in_a_shard_is_unpickled(damaged, tmp_path):
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    shard = damaged / "train-00000.tar"
    members = []
    with tarfile.open(shard) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(shard, "w") as tar:
        for name, content in members:
            extra = [(name[:-3] + suffix, pickle.dumps(Trap())) for suffix in ("pkl", "pyd", "pth")]
            for entry, data in [*(extra if name.endswith("png") else []), (name, content)]:
                info = tarfile.TarInfo(entry)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    names, bad = read_two_epochs(damaged)
    assert not bad
    assert len(names) == 1797
    assert not trap.exists()


def test_shards_are_read_over_http(digits):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(digits)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert read_dataset(url, allow_pipe=False) == load(digits)
    assert_same(global_batches(loaders(plan(digits, root=url)), 3), global_batches(loaders(plan(digits)), 3))
    lost = plan(digits, root=f"{url}/nowhere", shards=plan(digits).shards[:1], streams=1)
    with pytest.raises(DataError, match=r"nowhere/train-00000\.tar: .*missing"):
        global_batches(loaders(lost), 1)
    server.shutdown()


def test_shards_are_read_from_file_urls(digits):
    url = f"file://{digits}"
    assert read_dataset(url, allow_pipe=False) == load(digits)
    assert_same(global_batches(loaders(plan(digits, root=url)), 3), global_batches(loaders(plan(digits)), 3))
    with pytest.raises(InputError, match=r"data\.path: file:///nowhere/dataset\.json: "):
        read_dataset("file:///nowhere", allow_pipe=False)


def test_fork_waits_for_running_threads_only():
    """Sleeping threads, such as idle ones of gloo and MLflow, are not waited for."""
    asleep, stop = threading.Event(), threading.Event()
    threading.Thread(target=asleep.wait, daemon=True).start()
    ended = []

    def work():
        while not stop.is_set():
            sum(range(1000))
        ended.append(time.monotonic())

    threading.Thread(target=work).start()
    threading.Timer(0.3, stop.set).start()
    wait_for_other_threads()
    assert ended
    assert ended[0] <= time.monotonic()
    asleep.set()
