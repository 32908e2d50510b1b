"""Packing of valid, corrupt and unusual image collections."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from packs import pictures, plan, raises_input_error, run, samples
from PIL import Image
from sklearn.datasets import load_digits

from biggan.data import pack as packing
from biggan.data.dataset import check_trainable, load
from biggan.data.journal import JOURNAL
from biggan.data.pack import default_shards
from biggan.files import sha256_of


def test_digits_have_the_pixels_and_labels_of_scikit_learn(tmp_path):
    dataset = run(plan("digits", shards=3), tmp_path / "d")
    scans = load_digits()
    assert dataset.images == 1797
    assert dataset.class_counts == tuple(np.bincount(scans.target))
    packed = samples(tmp_path / "d")
    for key in list(packed)[:50]:
        label, pixels = packed[key]
        assert label == scans.target[int(key)]
        assert (pixels[..., 0] == pixels[..., 2]).all()
        back = pixels[..., 0].reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
        assert np.abs(back - scans.images[int(key)]).mean() < 1  # of 16 levels: Lanczos's overshoot


def test_folder_and_zip_give_the_same_bytes(tmp_path):
    root = pictures(tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))  # one folder around the class folders
        archive.writestr("__MACOSX/photos/cat/._0.png", b"junk")
    a, b = run(plan(root), tmp_path / "a"), run(plan(tmp_path / "photos.zip"), tmp_path / "b", workers=2)
    assert a.classes == b.classes == ("cat", "dog")
    assert [s.sha256 for s in a.splits["train"].shards] == [s.sha256 for s in b.splits["train"].shards]


def test_dataset_json_describes_the_shards(tmp_path):
    run(plan(pictures(tmp_path / "p"), val_fraction=0.34), tmp_path / "d")
    dataset = load(tmp_path / "d")
    assert dataset.splits["train"].class_counts == (4, 4)
    assert dataset.splits["val"].class_counts == (2, 2)
    assert not samples(tmp_path / "d").keys() & samples(tmp_path / "d", "val").keys()
    for split in dataset.splits.values():
        assert sum(s.images for s in split.shards) == split.images
        for shard in split.shards:
            file = tmp_path / "d" / shard.name
            assert (file.stat().st_size, sha256_of(file)) == (shard.bytes, shard.sha256)


def test_torchvision_data_sets(tmp_path):
    # FakeData has 1,000 images of 10 classes and, like most of torchvision's, its own label types.
    dataset = run(plan("torchvision:FakeData", shards=4), tmp_path / "d", workers=2)
    assert (dataset.images, len(dataset.classes)) == (1000, 10)
    with raises_input_error("torchvision:Imaginary: "):
        run(plan("torchvision:Imaginary"), tmp_path / "e")


def test_unreadable_images_are_named_and_counted(tmp_path):
    root = pictures(tmp_path / "p")
    whole = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "text.jpg").write_text("no image")
    Image.new("F", (8, 8)).save(root / "dog" / "deep.tiff")
    dataset = run(plan(root), tmp_path / "d")
    assert dataset.images == 12
    assert sorted(s.path for s in dataset.skipped) == ["cat/cut.png", "cat/text.jpg", "dog/deep.tiff"]
    assert "mode F: " in next(s.reason for s in dataset.skipped if "deep" in s.path)


def test_interrupted_pack_is_incomplete_and_resumes(tmp_path, monkeypatch):
    source = pictures(tmp_path / "p")
    expected = run(plan(source, shards=4), tmp_path / "whole")
    packed_now = []

    def interrupted(the_plan, dest, split, number, original=packing.pack_shard):
        if len(packed_now) == 2:
            raise KeyboardInterrupt
        packed_now.append(number)
        return original(the_plan, dest, split, number)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "pack_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(plan(source, shards=4), tmp_path / "d")
    with raises_input_error("data.path: ", "dataset.json", "interrupted"):
        load(tmp_path / "d")
    with raises_input_error(f"{tmp_path / 'd'}: ", "other settings"):
        run(plan(source, shards=3), tmp_path / "d")
    packed_now.clear()
    monkeypatch.setattr(packing, "pack_shard", lambda *a, f=packing.pack_shard: packed_now.append(a[3]) or f(*a))
    assert run(plan(source, shards=4), tmp_path / "d").splits == expected.splits
    assert len(packed_now) == 2
    assert not (tmp_path / "d" / JOURNAL).exists()


def test_bad_sources_and_destinations_are_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    mixed = pictures(tmp_path / "mixed")
    Image.new("RGB", (4, 4)).save(mixed / "loose.png")
    done = tmp_path / "done"
    run(plan(pictures(tmp_path / "ok")), done)
    for source, dest, parts in [
        (tmp_path / "nowhere", "d", (f"{tmp_path / 'nowhere'}: no such",)),
        (tmp_path / "empty", "d", (f"{tmp_path / 'empty'}: ", "no images", ".png")),
        (tmp_path / "file.txt", "d", (f"{tmp_path / 'file.txt'}: not a",)),
        (mixed, "d", (f"{mixed}: ", "'loose.png'", "--labels", "--unconditional")),
        (tmp_path / "ok", "done", (f"{done}: already ",)),
        (tmp_path / "ok", "ok", (f"{tmp_path / 'ok'}: ", "not empty")),
    ]:
        with raises_input_error(*parts):
            run(plan(source), tmp_path / dest)
        assert not (tmp_path / "d").exists()


def test_journal_with_an_incomplete_first_line_is_ignored(tmp_path):
    source = pictures(tmp_path / "p")
    for text in ("", '{"plan": {"sour'):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / JOURNAL).write_text(text)
        assert run(plan(source), tmp_path / "d").images == 12
        shutil.rmtree(tmp_path / "d")


def test_one_image_per_class_stays_in_train_and_links_are_followed(tmp_path):
    root = pictures(tmp_path / "p", each=1)
    (tmp_path / "links").mkdir()
    for folder in root.iterdir():
        (tmp_path / "links" / folder.name).symlink_to(folder)
    assert run(plan(tmp_path / "links", shards=0), tmp_path / "d").class_counts == (1, 1)
    held = run(plan(pictures(tmp_path / "q", each=3), val_fraction=0.9), tmp_path / "e")
    assert held.splits["train"].class_counts == (1, 1), "one image of each class is kept for training"
    assert run(plan(root, val_fraction=0.9), tmp_path / "f").splits.keys() == {"train"}


def test_images_without_class_folders_are_one_class(tmp_path):
    root = pictures(tmp_path / "p", classes=["."])
    assert run(plan(root), tmp_path / "d").classes == ("images",)


def test_wrong_folder_level_is_refused_and_imbalance_is_warned_of(tmp_path):
    run(plan(pictures(tmp_path / "p", classes=["all"])), tmp_path / "one")
    with raises_input_error("model.classes: 10", "6 images", "'all'", "model.classes=1"):
        check_trainable(load(tmp_path / "one"), classes=10, resolution=32, image_channels=3, streams=1)
    root = pictures(tmp_path / "q", classes=["many"], each=22)
    pictures(root.parent / "r", classes=["few"], each=2)
    (root.parent / "r" / "few").rename(root / "few")
    dataset = run(plan(root), tmp_path / "skewed")
    (warning,) = check_trainable(dataset, classes=2, resolution=32, image_channels=3, streams=1)
    for part in ("'many' has 22", "'few' has 2", "--balance"):
        assert part in warning
    for wrong, parts in [
        ({"classes": 3}, ("model.classes: 3", "model.classes=2")),
        ({"resolution": 64}, ("model.resolution: 64", "model.resolution=32", "--resolution 64")),
        ({"streams": 3}, ("data.streams: 3", " 2;", "--shards 3")),
    ]:
        with raises_input_error(*parts):
            check_trainable(dataset, **{"classes": 2, "resolution": 32, "image_channels": 3, "streams": 1} | wrong)


def test_corrupt_dataset_json_and_missing_shards_are_named(tmp_path):
    run(plan(pictures(tmp_path / "p")), tmp_path / "d")
    text = (tmp_path / "d" / "dataset.json").read_text()
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(json.loads(text) | {"images": "many"}))
    with raises_input_error("dataset.json: images: "):
        load(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_bytes(b'{"images": "\xff"}')
    with raises_input_error("dataset.json: "):
        load(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(text)
    (tmp_path / "d" / "train-00001.tar").unlink()
    with raises_input_error("train-00001.tar: ", "missing"):
        load(tmp_path / "d")


def test_default_shard_counts():
    assert [default_shards(n) for n in (10, 50_000, 1_281_167)] == [16, 64, 1024]
