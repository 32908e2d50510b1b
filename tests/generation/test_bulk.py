"""Bulk sampling in one process: complete, failing and truncated outputs, and those of other requests."""

import csv
import errno
import json
import tarfile
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from sampling_run import CLASSES, small_generator

from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.generation import writers
from biggan.generation.bulk import BulkRequest, digest, write_images
from biggan.generation.sample import generate_rows
from biggan.generation.writers import Folder, Tar, output_at

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"), group=None)
GENERATOR = small_generator()
REQUEST = BulkRequest(digest(GENERATOR), ("cat", "ant", "dog"), (2, 0, 3), 70, 0.8, seed=5, standing=False)


def written(path, request=REQUEST):
    counts = []
    write_images(GENERATOR, request, output_at(path, request), ALONE, lambda _what, done, _of: counts.append(done))
    return counts


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_folder_has_the_images_by_index_and_their_labels(tmp_path):
    assert written(tmp_path / "a") == [0, 32, 64, 70]
    pngs = sorted((tmp_path / "a").glob("*.png"))  # as pytorch-fid lists them
    assert [file.name for file in pngs] == [f"{k:09d}.png" for k in range(70)]
    rows = list(csv.DictReader((tmp_path / "a" / "labels.csv").open()))
    assert rows[4] == {"file": "000000004.png", "label": "0", "class": "ant"}
    assert [int(row["label"]) for row in rows] == [(2, 0, 3)[k % 3] for k in range(70)]
    grid = generate_rows(GENERATOR, [2, 0, 3], 23, 0.8, 5, ALONE.device)  # 69 images, three in each column
    assert all(np.array_equal(np.asarray(Image.open(pngs[c * 3 + r])), grid[r, c]) for r in range(3) for c in range(23))


def test_bits_of_an_image_do_not_depend_on_the_number_of_images(tmp_path):
    shapes = set()
    hook = GENERATOR.register_forward_pre_hook(lambda _, args: shapes.add(tuple(len(arg) for arg in args)))
    for images in (1, 33, 70):
        written(tmp_path / str(images), replace(REQUEST, images=images))
    hook.remove()
    assert shapes == {(32, 32)}  # other shapes could select other kernels, at least on some machines
    one, some, many = (files(tmp_path / str(images)) for images in (1, 33, 70))
    names = [f"{k:09d}.png" for k in range(33)]
    assert one[names[0]] == many[names[0]]
    assert all(some[name] == many[name] for name in names)
    assert len({many[name] for name in names}) == 33


@pytest.mark.parametrize(
    ("name", "kind"), [("a.tar", Tar), ("A.TAR", Tar), (".tar", Tar), ("tar", Folder), ("a.tar.d", Folder)]
)
def test_name_ending_in_tar_selects_one_tar_file(tmp_path, name, kind):
    assert isinstance(output_at(tmp_path / name, REQUEST), kind)


def test_webdataset_reads_the_tar_with_the_same_images(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "a.tar")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "a.tar"]
    samples = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{k:09d}" for k in range(70)]
    for k, sample in enumerate(samples):
        assert int(sample["cls"]) == (2, 0, 3)[k % 3]
        assert sample["png"] == (tmp_path / "a" / f"{k:09d}.png").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert len(tar.getmembers()) == 140
        assert Image.open(BytesIO(tar.extractfile("000000069.png").read())).size == (32, 32)


@pytest.mark.parametrize("kind", [Folder, Tar])
def test_full_disk_is_reported_and_the_same_request_resumes(tmp_path, monkeypatch, kind):
    path = tmp_path / ("a.tar" if kind is Tar else "a")
    real, encoded = writers.png, []

    def disk_full(image):
        encoded.append(image)
        if len(encoded) == 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(image)

    with monkeypatch.context() as patch:
        patch.setattr(writers, "png", disk_full)
        with pytest.raises(InputError, match=rf"^--out: {path}: .*No space left on device"):
            written(path)
    assert not (path / "labels.csv").exists()
    assert not path.is_file()
    assert written(path)[0] in (32, 38)  # the second chunk was incomplete; the third may have been written before it
    written(tmp_path / path.with_stem("b").name)
    if kind is Tar:
        assert path.read_bytes() == (tmp_path / "b.tar").read_bytes()
    else:
        assert files(path) == files(tmp_path / "b")


def test_disk_that_fills_up_inside_a_file_leaves_no_partial_file(tmp_path, monkeypatch):
    calls = []

    def half(path, content):
        with path.open("wb") as file:
            calls.append(file.write(content[: len(content) // 2 if len(calls) == 50 else None]))
        if len(calls) == 51:
            raise OSError(errno.ENOSPC, "No space left on device")

    def half_copy(source, target, length):
        target.write(source.read(length)[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writers.Path, "write_bytes", half)
    monkeypatch.setattr(writers.shutil, "copyfileobj", half_copy)
    for name in ("a", "a.tar"):
        with pytest.raises(InputError, match="No space left on device"):
            written(tmp_path / name)
    assert len(calls) > 50
    assert all(writers.is_complete_png(file) for file in (tmp_path / "a").glob("*.png"))
    assert not (tmp_path / "a.tar").exists()


def test_files_corrupted_by_a_power_failure_are_made_again(tmp_path):
    written(tmp_path / "a")
    before = files(tmp_path / "a")
    cut, holed = (tmp_path / "a" / f"{k:09d}.png" for k in (3, 40))
    cut.write_bytes(before[cut.name][:-20])
    holed.write_bytes(before[holed.name][:100] + bytes(30) + before[holed.name][130:])
    (tmp_path / "a" / "000000069.png").unlink()
    assert written(tmp_path / "a") == [0, 32, 64, 70]
    assert files(tmp_path / "a") == before
    assert written(tmp_path / "a") == [70]  # complete: nothing is made
    assert files(tmp_path / "a") == before


def test_files_of_two_requests_are_never_mixed(tmp_path):
    written(tmp_path / "a")
    before = files(tmp_path / "a")
    others = {
        "seed: 5 .* 6 ": replace(REQUEST, seed=6),
        "images: 70 .* 69 ": replace(REQUEST, images=69),
        "truncation: 0.8 .* None ": replace(REQUEST, truncation=None),
        "standing: False .* True ": replace(REQUEST, standing=True),
        "generator: .*RUN@STEP": replace(REQUEST, generator=digest(small_generator(seed=1))),
    }
    for message, request in others.items():
        with pytest.raises(InputError, match=f"^--out: {tmp_path}/a .*{message}"):
            written(tmp_path / "a", request)
    assert files(tmp_path / "a") == before


def test_files_of_others_are_kept(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").write_text("precious")
    with pytest.raises(InputError, match=f"^--out: {tmp_path}/photos "):
        written(tmp_path / "photos")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match=f"^--out: {tmp_path}/file "):
        written(tmp_path / "file")
    with pytest.raises(InputError, match=f"^--out: {tmp_path}/file/a: .*Not a directory"):
        written(tmp_path / "file" / "a")
    written(tmp_path / "a.tar")
    with pytest.raises(InputError, match=rf"^--out: {tmp_path}/a\.tar "):
        written(tmp_path / "a.tar")
    (tmp_path / "odd").mkdir()
    for text in ("{", "[]", "3"):
        (tmp_path / "odd" / writers.MANIFEST).write_text(text)
        with pytest.raises(InputError, match=f"^{tmp_path}/odd/{writers.MANIFEST}: "):
            written(tmp_path / "odd")
    assert (tmp_path / "photos" / "me.png").read_text() == "precious"


def test_folder_with_a_partial_manifest_is_started_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{writers.MANIFEST}.partial").write_text("{")
    assert written(tmp_path / "a")[0] == 0
    assert json.loads((tmp_path / "a" / writers.MANIFEST).read_text())["classes"] == ["cat", "ant", "dog"]


def test_digest_depends_on_every_tensor():
    generator = small_generator()
    assert digest(generator) == digest(GENERATOR)
    digests = {digest(generator)}
    for tensor in generator.state_dict().values():
        tensor.view(-1)[-1] += 1
        digests.add(digest(generator))
    assert len(digests) == 1 + len(generator.state_dict())
    assert CLASSES[2] == REQUEST.classes[0]
