"""LMDB folders as LSUN gives them out, written here by lmdb."""

import io
import sys

import lmdb
import pytest
from packs import plan, reds, run
from PIL import Image

from biggan.errors import InputError


def write(folder, values):
    """One LMDB: a key of hexadecimal digits -> WebP, as LSUN has it."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**20) as database, database.begin(write=True) as transaction:
        for k, red in enumerate(values):
            out = io.BytesIO()
            Image.new("RGB", (8, 8), (red, 0, 0)).save(out, "WEBP", lossless=True)
            transaction.put(f"{k:040x}".encode(), out.getvalue() if red else b"no image")
    return folder


def refused(match, source, dest, **settings):
    with pytest.raises(InputError, match=match) as error:
        run(plan(source, **settings), dest)
    assert "\n" not in str(error.value)
    assert not dest.exists()


def test_one_class_per_lmdb(tmp_path):
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


def test_a_value_that_is_no_image_is_named_and_skipped(tmp_path):
    dataset = run(plan(write(tmp_path / "x_lmdb", [1, 0, 2])), tmp_path / "d")
    assert [(s.path, s.reason) for s in dataset.skipped] == [
        (f"x_lmdb/{1:040x}", "not an image of a known kind (8 bytes)")
    ]


def test_bad_lmdbs_are_refused_by_name(tmp_path):
    dest = tmp_path / "d"
    refused(r"empty_lmdb: the LMDB is empty", write(tmp_path / "empty_lmdb", []), dest)
    (tmp_path / "junk_lmdb").mkdir()
    (tmp_path / "junk_lmdb" / "data.mdb").write_bytes(b"junk" * 5000)
    refused(r"junk_lmdb: is no LMDB that can be read \(.*\); fetch it again", tmp_path / "junk_lmdb", dest)
    cut = write(tmp_path / "cut_lmdb", range(1, 200)) / "data.mdb"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 3])
    refused(r"cut_lmdb/data\.mdb: is cut short, [\d,]+ of [\d,]+ bytes; fetch it again", cut.parent, dest)
    cut.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    refused(r"cut_lmdb: its list of images cannot be read \(.*\); fetch it again", cut.parent, dest)
    write(tmp_path / "lsun" / "tower_val_lmdb", [1])
    refused(r"--split: .*lsun has no \*_train_lmdb, only tower_val_lmdb", tmp_path / "lsun", dest)
    one = tmp_path / "lsun" / "tower_val_lmdb"
    refused(r"--split: .*tower_val_lmdb: says of no split", one, dest, split="val")
    refused(r"--label-column: .*tower_val_lmdb: no column of labels is read", one, dest, label_column="kind")
    refused(
        r"--labels: .*tower_val_lmdb has labels of its own", tmp_path / "lsun" / "tower_val_lmdb", dest, labels="l.csv"
    )


def test_without_the_library_one_line_names_the_extra(tmp_path, monkeypatch):
    folder = write(tmp_path / "x_lmdb", [1, 2])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    refused(r"x_lmdb: an LMDB needs the library lmdb; pip install 'biggan\[lmdb\]'", folder, tmp_path / "d")
