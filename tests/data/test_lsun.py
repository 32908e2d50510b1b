"""LSUN's LMDB folders, written here by lmdb."""

import io
import sys

import lmdb
from packs import plan, reds, refused, run
from PIL import Image


def write(folder, values):
    """Write an LMDB with hexadecimal keys and WebP values, as LSUN does; 0 writes a value that is not an image."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**20) as database, database.begin(write=True) as transaction:
        for k, red in enumerate(values):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), (red, 0, 0)).save(out, "WEBP", lossless=True)
            transaction.put(f"{k:040x}".encode(), out.getvalue() if red else b"no image")
    return folder


def test_each_lmdb_is_one_class(tmp_path):
    root = tmp_path / "lsun"
    bedroom = write(root / "bedroom_train_lmdb", [10, 20, 30])
    write(root / "church_outdoor_train_lmdb", [40, 50])
    write(root / "bedroom_val_lmdb", [60, 70])
    write(tmp_path / "my_own_lmdb", [80, 90])
    dataset = run(plan(root, shards=2), tmp_path / "d")
    assert dataset.classes == ("bedroom", "church_outdoor")
    both = [*(("bedroom", red) for red in (10, 20, 30)), *(("church_outdoor", red) for red in (40, 50))]
    assert reds(tmp_path / "d") == both
    assert run(plan(root, shards=2), tmp_path / "again", workers=2).splits == dataset.splits
    run(plan(root, split="val"), tmp_path / "val")
    assert reds(tmp_path / "val") == [("bedroom", 60), ("bedroom", 70)]
    run(plan(bedroom, tmp_path / "my_own_lmdb"), tmp_path / "two")
    assert reds(tmp_path / "two") == [*both[:3], ("my_own", 80), ("my_own", 90)]


def test_value_that_is_not_an_image_is_named_and_skipped(tmp_path):
    dataset = run(plan(write(tmp_path / "x_lmdb", [1, 0, 2])), tmp_path / "d")
    ((path, reason),) = [(s.path, s.reason) for s in dataset.skipped]
    assert path == f"x_lmdb/{1:040x}"
    assert "(8 bytes)" in reason


def test_bad_lmdbs_are_refused_by_name(tmp_path):
    dest = tmp_path / "d"
    refused("empty_lmdb: ", "empty;", sources=[write(tmp_path / "empty_lmdb", [])], dest=dest)
    (tmp_path / "junk_lmdb").mkdir()
    (tmp_path / "junk_lmdb" / "data.mdb").write_bytes(b"junk" * 5000)
    refused("junk_lmdb: ", "LMDB (", sources=[tmp_path / "junk_lmdb"], dest=dest)
    cut = write(tmp_path / "cut_lmdb", range(1, 200)) / "data.mdb"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 3])
    refused(f"{cut}: ", f"{len(whole) // 3:,} of ", " bytes", sources=[cut.parent], dest=dest)
    cut.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    refused("cut_lmdb: ", "keys", sources=[cut.parent], dest=dest)
    write(tmp_path / "lsun" / "tower_val_lmdb", [1])
    refused("--split: ", "lsun has no *_train_lmdb", "tower_val_lmdb", sources=[tmp_path / "lsun"], dest=dest)
    one = tmp_path / "lsun" / "tower_val_lmdb"
    refused(f"--split: {one}", sources=[one], dest=dest, split="val")
    refused(f"--label-column: {one}", sources=[one], dest=dest, label_column="kind")
    refused(f"--labels: {one}", sources=[one], dest=dest, labels="l.csv")


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    folder = write(tmp_path / "x_lmdb", [1, 2])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    refused("x_lmdb: ", "pip install 'biggan[lmdb]'", sources=[folder], dest=tmp_path / "d")


def test_numeric_classes_sort_as_numbers(tmp_path):
    for name in ("10", "9", "2"):
        write(tmp_path / "l" / f"{name}_train_lmdb", [int(name)])
    assert run(plan(tmp_path / "l"), tmp_path / "d").classes == ("2", "9", "10")
    assert reds(tmp_path / "d") == [("10", 10), ("2", 2), ("9", 9)]
