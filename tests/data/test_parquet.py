"""Parquet files as the hub lays them out, written here by pyarrow."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packs import flat, plan, reds, run
from PIL import Image

from biggan.data.dataset import load
from biggan.data.pack import begin
from biggan.data.sources.selection import Merge
from biggan.errors import InputError


def png(red, size=8):
    out = io.BytesIO()
    Image.new("RGB", (size, size), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def table(reds_of_rows, labels, names=None, image="image", label="label", plain=False):
    """As `datasets` writes them: a struct of bytes and path, an integer, and class names in the schema's metadata."""
    rows = [png(red) if isinstance(red, int) else red for red in reds_of_rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array(rows, pa.large_binary()) if plain else pa.array([{"bytes": r, "path": "x"} for r in rows], kind)
    made = pa.table({image: images, "id": pa.array(range(len(rows)))} | ({} if labels is None else {label: labels}))
    if names is None:
        return made
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path, made, rows_per_group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=rows_per_group, compression="none", use_dictionary=False)
    return path


def refused(match, source, dest, **settings):
    with pytest.raises(InputError, match=match) as error:
        run(plan(source, **settings), dest)
    assert "\n" not in str(error.value)
    assert not dest.exists()


@pytest.fixture
def hub(tmp_path):
    """Three files of train, one of test; 'bird' has no image."""
    for number, (values, labels) in enumerate(
        [((1, 2, 3), (0, 1, 1)), ((4,), (0,)), ((5, 6, 7, 8, 9), (1, 0, 0, 1, 1))]
    ):
        made = table(values, labels, ["zebra", "ant", "bird"])
        write(tmp_path / "hub" / "data" / f"train-{number:05d}-of-00003.parquet", made)
    write(
        tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", table((100, 101), (1, 1), ["zebra", "ant", "bird"])
    )
    return tmp_path / "hub"


ZEBRAS, ANTS = [1, 4, 6, 7], [2, 3, 5, 8, 9]


def test_the_hubs_layout(hub, tmp_path):
    dataset = run(plan(hub, shards=3), tmp_path / "d")
    assert dataset.classes == ("zebra", "ant", "bird"), "in the schema's order, also those without an image"
    assert dataset.class_counts == (4, 5, 0)
    assert reds(tmp_path / "d") == [("ant", red) for red in ANTS] + [("zebra", red) for red in ZEBRAS]
    assert run(plan(hub, shards=3), tmp_path / "again", workers=2).splits == dataset.splits
    run(plan(hub, split="test"), tmp_path / "test")
    assert reds(tmp_path / "test") == [("ant", 100), ("ant", 101)]
    one_file = hub / "data" / "train-00002-of-00003.parquet"
    run(plan(one_file), tmp_path / "file")
    assert [red for _, red in reds(tmp_path / "file")] == [5, 8, 9, 6, 7]
    run(plan(hub, classes=("zebra",)), tmp_path / "zebras")
    assert reds(tmp_path / "zebras") == [("zebra", red) for red in ZEBRAS]


def test_classes_of_one_name_are_two_classes_and_told_of(tmp_path):
    """As ImageNet's cranes, the bird and the machine."""
    file = write(tmp_path / "x.parquet", table((1, 2, 3, 4), (0, 1, 2, 0), ["crane", "crane", "dog"]))
    dataset = run(plan(file), tmp_path / "d")
    assert (dataset.classes, dataset.class_counts) == (("crane", "crane 2", "dog"), (2, 1, 1))
    assert reds(tmp_path / "d") == [("crane", 1), ("crane", 4), ("crane 2", 2), ("dog", 3)]
    (note,) = begin(plan(file), tmp_path / "e").source.notes
    assert note.endswith("x.parquet: has classes of one name; numbers keep them apart: 'crane 2'")
    flat(tmp_path / "p" / "crane" / "1.png", (50, 0, 0))
    joined = run(plan(file, tmp_path / "p", merges=(Merge("cranes", ("crane", "crane 2")),)), tmp_path / "f")
    assert (joined.classes, joined.class_counts) == (("cranes", "dog"), (4, 1))


@pytest.mark.parametrize("names", [5, "ab", None])
def test_class_names_that_are_no_list_are_none(names, tmp_path):
    made = table((1, 2), (0, 1), ["a", "b"])
    features = {"info": {"features": {"label": {"names": names}}}}
    made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
    assert run(plan(write(tmp_path / "x.parquet", made)), tmp_path / "d").classes == ("0", "1")


def test_joined_with_a_folder(hub, tmp_path):
    flat(tmp_path / "p" / "ant" / "1.png", (50, 0, 0))
    dataset = run(plan(tmp_path / "p", hub), tmp_path / "d")
    assert dataset.classes == ("ant", "zebra", "bird")
    assert reds(tmp_path / "d") == [("ant", red) for red in [*ANTS, 50]] + [("zebra", red) for red in ZEBRAS]


def test_row_groups_are_read_one_by_one(hub, tmp_path):
    """What is damaged in one costs its own images: nothing reads a file as a whole."""
    file = hub / "data" / "train-00002-of-00003.parquet"
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)  # image.bytes of rows 2 and 3
    with file.open("r+b") as opened:
        opened.seek(chunk.data_page_offset)
        opened.write(b"\xff" * chunk.total_compressed_size)
    dataset = run(plan(hub), tmp_path / "d")
    assert sorted(s.path for s in dataset.skipped) == [f"data/{file.name}#2", f"data/{file.name}#3"]
    assert [red for _, red in reds(tmp_path / "d")] == [2, 3, 5, 9, 1, 4, 6]


def test_a_row_group_is_read_once_per_shard(hub, monkeypatch, tmp_path):
    job, seen = begin(plan(hub, shards=1), tmp_path / "d"), []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, k, *a: seen.append((id(self), k)) or original(self, k, *a)
    )
    job.run(1, lambda _: None)
    assert len(seen) == len(set(seen)) == 2 + 1 + 3


def test_other_columns_and_labels(tmp_path):
    cifar = table((1, 2, 3), (0, 1, 1), ["apple", "fish"], image="img", label="fine_label")
    write(tmp_path / "c" / "train.parquet", cifar)
    refused(
        r"train\.parquet: has no column 'label', only img, id, fine_label; .*--label-column",
        tmp_path / "c",
        tmp_path / "x",
    )
    run(plan(tmp_path / "c", label_column="fine_label"), tmp_path / "cd")
    assert reds(tmp_path / "cd") == [("apple", 1), ("fish", 2), ("fish", 3)]
    write(tmp_path / "n" / "0000.parquet", table((1, 2, 3), (10, 9, 10), plain=True))
    assert run(plan(tmp_path / "n"), tmp_path / "nd").classes == ("9", "10")
    assert reds(tmp_path / "nd") == [("10", 1), ("10", 3), ("9", 2)]
    write(tmp_path / "s" / "0000.parquet", table((1, 2), ("cat", "ant"), image="photo"))
    assert run(plan(tmp_path / "s"), tmp_path / "sd").classes == ("ant", "cat")
    write(tmp_path / "u" / "0000.parquet", table((1, 2), None))
    assert run(plan(tmp_path / "u", unconditional=True), tmp_path / "ud").classes == ("images",)


def test_splits_by_folder_and_none_at_all(tmp_path):
    for split, red in (("train", 1), ("validation", 2)):
        write(tmp_path / "a" / split / "0000.parquet", table((red, red), ("x", "x")))
        write(tmp_path / "b" / f"{split}.parquet", table((red, red), ("x", "x")))
    write(tmp_path / "c" / "part-a.parquet", table((1,), ("x",)))
    write(tmp_path / "c" / "part-b.parquet", table((1,), ("x",)))
    for name, settings, red in (("a", {}, 1), ("a", {"split": "validation"}, 2), ("b", {}, 1), ("c", {}, 1)):
        dest = tmp_path / "-".join([name, "d", *settings.values()])
        run(plan(tmp_path / name, **settings), dest)
        assert reds(dest) == [("x", red)] * 2
    refused(r"--split: .* has no split 'test'; it has train, validation", tmp_path / "a", tmp_path / "x", split="test")


@pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "train/0000.parquet", "0000.parquet"])
def test_of_two_configurations_side_by_side_none_is_guessed(tmp_path, file):
    """Both ways in which the hub lays them out, and one that says no split."""
    for name in ("fine", "coarse"):
        write(tmp_path / "hub" / name / file, table((1, 2), ("x", "y")))
    match = rf"hub: are 'coarse/{file}' and 'fine/{file}' of two data sets\? Give the folder of one"
    refused(match, tmp_path / "hub", tmp_path / "d")
    assert run(plan(tmp_path / "hub" / "fine"), tmp_path / "d").splits["train"].images == 2


def test_a_row_without_bytes_is_named_and_skipped(tmp_path):
    write(tmp_path / "p.parquet", table((1, None, 3, b"no image"), ("a", "a", "b", "b")))
    dataset = run(plan(tmp_path / "p.parquet"), tmp_path / "d")
    assert {s.path: s.reason for s in dataset.skipped} == {
        "p.parquet#1": "the row holds no image's bytes (null)",
        "p.parquet#3": "not an image of a known kind (8 bytes)",
    }
    assert load(tmp_path / "d").class_counts == (1, 1)


def test_an_incomplete_split_is_refused(hub, tmp_path):
    (hub / "data" / "train-00001-of-00003.parquet").unlink()
    refused(r"hub: 2 of the 3 files of split 'train' are there .*fetch the others", hub, tmp_path / "d")


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (table((1, 2), (0, 2), ["a", "b"]), r"row 1: label 2 is no class, there are 2; "),
        (table((1, 2), (-1, -1), ["a", "b"]), r"row 0: label -1 is no class, there are 2; \(-1 stands for unknown"),
        (table((1, 2), (0, -1)), r"row 1: label -1 is no class; "),
        (table((1, 2), (0, None)), r"row 1: label None is neither a number nor a name"),
        (table((1, 2), (0.5, 1.0)), r"row 0: label 0\.5 is neither"),
        (table((1, 2), ("a", "c"), ["a", "b"]), r"label 'c' is none of the schema's class names"),
        (table((1, 2), None), r"has no column 'label', only image, id; .*--label-column, or pack with --unconditional"),
        (table((1, 2), (0, 0)).drop(["image"]), r"has no column of images among id, label"),
        (table((1,), (0,), image="a").append_column("b", pa.array([b""])), r"has 2 columns of images, a, b among"),
        (table((1, 2), (0, 0)).slice(0, 0), r"has no rows"),
    ],
)
def test_bad_tables_are_refused_by_name(made, match, tmp_path):
    file = write(tmp_path / "bad.parquet", made)
    refused(rf"\S*bad\.parquet: {match}", file, tmp_path / "d")


def test_files_of_two_data_sets_and_files_cut_short(tmp_path):
    write(tmp_path / "p" / "a.parquet", table((1,), (0,), ["x"]))
    write(tmp_path / "p" / "b.parquet", table((1,), (0,), ["y"]))
    refused(r"b\.parquet: has other class names than .*a\.parquet", tmp_path / "p", tmp_path / "d")
    write(tmp_path / "q" / "a.parquet", table((1,), (0,)))
    write(tmp_path / "q" / "b.parquet", table((1,), ("y",)))
    refused(r"a\.parquet: some labels are numbers, some names", tmp_path / "q", tmp_path / "d")
    whole = (tmp_path / "p" / "a.parquet").read_bytes()
    for size in (0, 100, len(whole) - 5):
        (tmp_path / f"cut{size}.parquet").write_bytes(whole[:size])
        match = rf"cut{size}\.parquet: is no parquet file that can be read \(.*\); fetch it again"
        refused(match, tmp_path / f"cut{size}.parquet", tmp_path / "d")
