"""Parquet files in the layout of the Hugging Face hub, written here by pyarrow."""

import io
import json
import tarfile
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import SpooledTemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reads
from packs import flat, plan, raises_input_error, reds, refused, run
from PIL import Image

from biggan.config.preset import resolve
from biggan.data import pack as packing
from biggan.data.dataset import load
from biggan.data.journal import JOURNAL
from biggan.data.loader import Loader
from biggan.data.pack import start_packing
from biggan.data.sources.selection import Merge
from biggan.data.stream import START
from biggan.startup.checks import trainable_dataset


def png(red, size=8):
    out = io.BytesIO()
    Image.new("RGB", (size, size), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def table(reds_of_rows, labels, names=None, image="image", label="label", plain=False):
    """Build a table as `datasets` does: struct of bytes and path, integer labels, class names in the metadata."""
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


@pytest.fixture
def hub(tmp_path):
    """Write three train files and one test file; 'bird' has no images."""
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


def test_hub_layout(hub, tmp_path):
    dataset = run(plan(hub, shards=3), tmp_path / "d")
    assert dataset.classes == ("zebra", "ant", "bird"), "in the schema's order, including classes without images"
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


def test_classes_with_the_same_name_are_numbered_and_noted(tmp_path):
    """ImageNet has two such classes: crane, the bird, and crane, the machine."""
    file = write(tmp_path / "x.parquet", table((1, 2, 3, 4), (0, 1, 2, 0), ["crane", "crane", "dog"]))
    dataset = run(plan(file), tmp_path / "d")
    assert (dataset.classes, dataset.class_counts) == (("crane", "crane 2", "dog"), (2, 1, 1))
    assert reds(tmp_path / "d") == [("crane", 1), ("crane", 4), ("crane 2", 2), ("dog", 3)]
    (note,) = start_packing(plan(file), tmp_path / "e").source.notes
    assert f"{file}: " in note
    assert note.endswith(" 'crane 2'")
    flat(tmp_path / "p" / "crane" / "1.png", (50, 0, 0))
    joined = run(plan(file, tmp_path / "p", merges=(Merge("cranes", ("crane", "crane 2")),)), tmp_path / "f")
    assert (joined.classes, joined.class_counts) == (("cranes", "dog"), (4, 1))


@pytest.mark.parametrize("names", [5, "ab", None])
def test_class_names_that_are_not_a_list_are_ignored(names, tmp_path):
    made = table((1, 2), (0, 1), ["a", "b"])
    features = {"info": {"features": {"label": {"names": names}}}}
    made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
    assert run(plan(write(tmp_path / "x.parquet", made)), tmp_path / "d").classes == ("0", "1")


def test_join_with_a_folder(hub, tmp_path):
    flat(tmp_path / "p" / "ant" / "1.png", (50, 0, 0))
    dataset = run(plan(tmp_path / "p", hub), tmp_path / "d")
    assert dataset.classes == ("ant", "zebra", "bird")
    assert reds(tmp_path / "d") == [("ant", red) for red in [*ANTS, 50]] + [("zebra", red) for red in ZEBRAS]


def test_row_groups_are_read_one_by_one(hub, tmp_path):
    """A corrupt row group loses only its own images."""
    file = hub / "data" / "train-00002-of-00003.parquet"
    chunk = pq.ParquetFile(file).metadata.row_group(1).column(0)  # image.bytes of rows 2 and 3
    with file.open("r+b") as opened:
        opened.seek(chunk.data_page_offset)
        opened.write(b"\xff" * chunk.total_compressed_size)
    dataset = run(plan(hub), tmp_path / "d")
    assert sorted(s.path for s in dataset.skipped) == [f"data/{file.name}#2", f"data/{file.name}#3"]
    assert [red for _, red in reds(tmp_path / "d")] == [2, 3, 5, 9, 1, 4, 6]


def test_a_row_group_is_read_once_per_shard(hub, monkeypatch, tmp_path):
    job, reads = start_packing(plan(hub, shards=1), tmp_path / "d"), []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, k, *a: reads.append((id(self), k)) or original(self, k, *a)
    )
    job.run(1, lambda _: None)
    assert len(reads) == len(set(reads)) == 2 + 1 + 3


def test_other_columns_and_labels(tmp_path):
    cifar = table((1, 2, 3), (0, 1, 1), ["apple", "fish"], image="img", label="fine_label")
    write(tmp_path / "c" / "train.parquet", cifar)
    parts = ("train.parquet: ", "'label'", "img, id, fine_label", "--label-column")
    refused(*parts, sources=[tmp_path / "c"], dest=tmp_path / "x")
    run(plan(tmp_path / "c", label_column="fine_label"), tmp_path / "cd")
    assert reds(tmp_path / "cd") == [("apple", 1), ("fish", 2), ("fish", 3)]
    write(tmp_path / "n" / "0000.parquet", table((1, 2, 3), (10, 9, 10), plain=True))
    assert run(plan(tmp_path / "n"), tmp_path / "nd").classes == ("9", "10")
    assert reds(tmp_path / "nd") == [("10", 1), ("10", 3), ("9", 2)]
    write(tmp_path / "s" / "0000.parquet", table((1, 2), ("cat", "ant"), image="photo"))
    assert run(plan(tmp_path / "s"), tmp_path / "sd").classes == ("ant", "cat")
    write(tmp_path / "u" / "0000.parquet", table((1, 2), None))
    assert run(plan(tmp_path / "u", unconditional=True), tmp_path / "ud").classes == ("images",)


def test_splits_by_folder_by_file_and_without_names(tmp_path):
    for split, red in (("train", 1), ("validation", 2)):
        write(tmp_path / "a" / split / "0000.parquet", table((red, red), ("x", "x")))
        write(tmp_path / "b" / f"{split}.parquet", table((red, red), ("x", "x")))
    write(tmp_path / "c" / "part-a.parquet", table((1,), ("x",)))
    write(tmp_path / "c" / "part-b.parquet", table((1,), ("x",)))
    for name, settings, red in (("a", {}, 1), ("a", {"split": "validation"}, 2), ("b", {}, 1), ("c", {}, 1)):
        dest = tmp_path / "-".join([name, "d", *settings.values()])
        run(plan(tmp_path / name, **settings), dest)
        assert reds(dest) == [("x", red)] * 2
    refused("--split: ", "'test'", "train, validation", sources=[tmp_path / "a"], dest=tmp_path / "x", split="test")


@pytest.mark.parametrize("file", ["train-00000-of-00001.parquet", "train/0000.parquet", "0000.parquet"])
def test_two_configurations_in_one_folder_are_refused(tmp_path, file):
    """Both layouts of the hub, and one whose names have no split."""
    for name in ("fine", "coarse"):
        write(tmp_path / "hub" / name / file, table((1, 2), ("x", "y")))
    refused("hub: ", f"'coarse/{file}'", f"'fine/{file}'", sources=[tmp_path / "hub"], dest=tmp_path / "d")
    assert run(plan(tmp_path / "hub" / "fine"), tmp_path / "d").splits["train"].images == 2


def test_row_without_bytes_is_named_and_skipped(tmp_path):
    write(tmp_path / "p.parquet", table((1, None, 3, b"no image"), ("a", "a", "b", "b")))
    dataset = run(plan(tmp_path / "p.parquet"), tmp_path / "d")
    reasons = {s.path: s.reason for s in dataset.skipped}
    assert reasons.keys() == {"p.parquet#1", "p.parquet#3"}
    assert "(null)" in reasons["p.parquet#1"]
    assert "(8 bytes)" in reasons["p.parquet#3"]
    assert load(tmp_path / "d").class_counts == (1, 1)


def test_incomplete_split_is_refused(hub, tmp_path):
    (hub / "data" / "train-00001-of-00003.parquet").unlink()
    refused("hub: ", "2 of the 3 files", "'train'", sources=[hub], dest=tmp_path / "d")


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        (table((1, 2), (0, 2), ["a", "b"]), ("row 1: label 2 ", "2 classes")),
        (table((1, 2), (-1, -1), ["a", "b"]), ("row 0: label -1 ", "2 classes", "--unconditional")),
        (table((1, 2), (0, -1)), ("row 1: label -1 ", "--unconditional")),
        (table((1, 2), (0, None)), ("row 1: label None ",)),
        (table((1, 2), (0.5, 1.0)), ("row 0: label 0.5 ",)),
        (table((1, 2), ("a", "c"), ["a", "b"]), ("label 'c' ", "class names")),
        (table((1, 2), None), ("no column 'label'", "image, id;", "--label-column", "--unconditional")),
        (table((1, 2), (0, 0)).drop(["image"]), ("no image column", "id, label")),
        (table((1,), (0,), image="a").append_column("b", pa.array([b""])), ("2 image columns", "a, b")),
        (table((1, 2), (0, 0)).slice(0, 0), ("no rows",)),
    ],
)
def test_bad_tables_are_refused_by_name(made, parts, tmp_path):
    file = write(tmp_path / "bad.parquet", made)
    refused(f"{file}: ", *parts, sources=[file], dest=tmp_path / "d")


def test_files_of_two_data_sets_and_truncated_files_are_refused(tmp_path):
    write(tmp_path / "p" / "a.parquet", table((1,), (0,), ["x"]))
    write(tmp_path / "p" / "b.parquet", table((1,), (0,), ["y"]))
    refused("b.parquet: ", "class names", "a.parquet", sources=[tmp_path / "p"], dest=tmp_path / "d")
    write(tmp_path / "q" / "a.parquet", table((1,), (0,)))
    write(tmp_path / "q" / "b.parquet", table((1,), ("y",)))
    refused("a.parquet: ", "integers", "strings", sources=[tmp_path / "q"], dest=tmp_path / "d")
    whole = (tmp_path / "p" / "a.parquet").read_bytes()
    for size in (0, 100, len(whole) - 5):
        cut = tmp_path / f"cut{size}.parquet"
        cut.write_bytes(whole[:size])
        refused(f"{cut}: ", "parquet file (", sources=[cut], dest=tmp_path / "d")


def test_numeric_labels_as_text_sort_as_numbers(tmp_path):
    write(tmp_path / "p" / "train.parquet", table((1, 2, 3), ("10", "9", "2")))
    assert run(plan(tmp_path / "p"), tmp_path / "d").classes == ("2", "9", "10")


@pytest.fixture
def by_class(tmp_path):
    """Write 20 classes of 40 images, one class after the other, as the hub stores ImageNet."""
    labels = [label for label in range(20) for _ in range(40)]
    file = write(tmp_path / "x.parquet", table([label * 10 for label in labels], labels, plain=True), 100)
    run(plan(file, shards=4, val_fraction=0.1), tmp_path / "d")
    return tmp_path / "d"


def distinct_classes(folder, **settings):
    """Return the median number of distinct classes in batches of 40, 10 from each of 4 streams."""
    read = reads.plan(folder, classes=20, streams=4, horizontal_flip=False, **settings)
    loader = Loader(read, micro_batch_size=40, cursors=[START] * 4, rank=0, world_size=1, workers=0)
    return median(len(labels.unique()) for _, labels in islice(loader, 30))


def test_batches_hold_many_classes_although_the_source_is_stored_by_class(by_class):
    """Independent draws give 17.4 distinct classes; blocks of 20 samples in the order of the source gave 3."""
    assert distinct_classes(by_class, shuffle_buffer=20) >= 15
    splits = load(by_class).splits.values()
    for shard in (shard for split in splits for shard in split.shards):
        with tarfile.open(by_class / shard.name) as tar:
            keys = [int(name[:9]) for name in tar.getnames() if name.endswith(".png")]
        assert keys != sorted(keys), shard.name


def test_shards_are_the_same_however_little_is_held_in_memory(by_class, tmp_path, monkeypatch):
    on_disk = []

    class Watched(SpooledTemporaryFile):
        def rollover(self):
            on_disk.append(True)
            super().rollover()

    monkeypatch.setattr(packing, "HELD_BYTES", 1000)
    monkeypatch.setattr(packing, "SpooledTemporaryFile", Watched)
    again = run(plan(tmp_path / "x.parquet", shards=4, val_fraction=0.1), tmp_path / "e")
    assert again.splits == load(by_class).splits
    assert on_disk == [True] * 5
    assert all(file.suffix in (".tar", ".json") for file in (tmp_path / "e").iterdir())


def test_a_pack_that_an_earlier_version_began_is_not_resumed(hub, tmp_path):
    """Its shards may be in the order of the source."""
    start_packing(plan(hub), tmp_path / "d")
    journal = tmp_path / "d" / JOURNAL
    header = json.loads(journal.read_text())
    header.pop("order", None)
    journal.write_text(json.dumps(header) + "\n")
    with raises_input_error(f"{tmp_path / 'd'}: ", "other settings"):
        start_packing(plan(hub), tmp_path / "d")


def test_a_shuffle_buffer_too_small_for_its_shards_is_warned_of(by_class, tiny):
    def warnings(buffer):
        settings = [f"data.path={by_class}", "model.classes=20", "data.streams=4", "training.batch_size=40"]
        return trainable_dataset(resolve(Path(tiny[0]), [*tiny[1:], *settings, f"data.shuffle_buffer={buffer}"]))[1]

    most = max(shard.images for shard in load(by_class).splits["train"].shards)
    assert warnings(100) == []  # ten batches of 10 samples of a stream
    (warning,) = warnings(99)
    assert warning.startswith("data.shuffle_buffer: 99")
    assert "data.shuffle_buffer=100" in warning
    file = by_class / "dataset.json"
    as_packed_before = json.loads(file.read_text())
    as_packed_before.pop("shuffled", None)
    file.write_text(json.dumps(as_packed_before))
    assert warnings(most) == []
    (warning,) = warnings(most - 1)
    assert warning.startswith(f"data.shuffle_buffer: {most - 1}")
    assert f"data.shuffle_buffer={most}" in warning
