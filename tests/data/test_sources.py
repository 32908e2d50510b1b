"""Several sources, labels from files, and selected, merged and balanced classes, as they appear in the shards."""

import json
import os
import zipfile
from collections import Counter

import pytest
from packs import flat, plan, raises_input_error, reds, refused, run

from biggan.data.dataset import load
from biggan.data.pack import start_packing
from biggan.data.sources import tree
from biggan.data.sources.image_source import number_duplicates, sorted_class_names
from biggan.data.sources.selection import Merge, parse_merge, parse_names
from biggan.errors import InputError


def farm(root, **classes):
    """Write a folder of class folders; every image has a unique red value that identifies it."""
    for name, values in classes.items():
        for red in values:
            flat(root / name / f"{red}.png", (red, 0, 0))
    return root


def test_several_sources_are_joined_by_class_name(tmp_path):
    a = farm(tmp_path / "a", cat=[1, 2], dog=[3])
    b = farm(tmp_path / "b", bird=[4], cat=[5])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(flat(tmp_path / "6.png", (6, 0, 0)), "dog/3.png")  # a name that `a` has too
    dataset = run(plan(a, b, tmp_path / "c.zip"), tmp_path / "d")
    assert dataset.classes == ("cat", "dog", "bird"), "in order of first appearance"
    assert reds(tmp_path / "d") == [("bird", 4), ("cat", 1), ("cat", 2), ("cat", 5), ("dog", 3), ("dog", 6)]
    names = start_packing(plan(a, b, tmp_path / "c.zip"), tmp_path / "e").source.names
    assert len(set(names)) == len(names) == 6
    again = run(plan(a, b, tmp_path / "c.zip"), tmp_path / "again", workers=2)
    assert again.splits == dataset.splits
    (tmp_path / "link").symlink_to(a)
    for one, other in ((a, tmp_path / "link"), (tmp_path, a), (a / "cat", a)):
        with raises_input_error("SOURCE: "):
            plan(one, other)


def test_names_that_are_not_utf8_are_escaped_and_their_files_are_read(tmp_path):
    latin = os.fsdecode(b"caf\xe9")
    root = farm(tmp_path / latin, **{latin: [1, 2], "dog": [3]})
    (root / latin / f"{latin}.png").write_bytes(b"")
    run(plan(root, tmp_path / farm(tmp_path / "more", **{latin: [4]})), tmp_path / "d")
    dataset = load(tmp_path / "d")
    assert reds(tmp_path / "d") == [(r"caf\udce9", 1), (r"caf\udce9", 2), (r"caf\udce9", 4), ("dog", 3)]
    assert [s.path for s in dataset.skipped] == [rf"{tmp_path}/caf\udce9/caf\udce9/caf\udce9.png"]
    assert dataset.source.startswith(rf"{tmp_path}/caf\udce9, ")
    text = json.dumps(
        {f"{latin}/1.png": "a", f"{latin}/2.png": "\ud800", f"{latin}/{latin}.png": "a", "dog/3.png": "a"}
    )
    run(plan(root, labels=labelled(tmp_path, text, "l.json")), tmp_path / "e")
    assert load(tmp_path / "e").classes == ("a", r"\ud800")
    assert parse_names(latin, "--classes") == parse_merge(f"{latin}=x")[:1] == (r"caf\udce9",)


def test_repeated_class_names_are_numbered():
    assert number_duplicates(["a", "b", "a", "a 2", "a"]) == ["a", "b", "a 3", "a 2", "a 4"]


def labelled(tmp_path, text, name="labels.csv"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "path,label\nx/1.png,cat\n2.png,dog\n./x/3.png,cat\n"),
        ("l.csv", "\ufefffile_name, Label ,id\nx/1.png,cat,7\n2.png,dog,8\nx/3.png,cat,9\n"),
        ("l.csv", "x/1.png,cat\r2.png,dog\rx/3.png,cat\r"),
        ("l.csv", 'x/1.png,"cat"\n\n2.png,dog\nx/3.png, cat'),
        ("l.json", '{"labels": [["x/1.png", "cat"], ["2.png", "dog"], ["x/3.png", "cat"]]}'),
        ("l.json", '{"x/1.png": "cat", "2.png": "dog", "x/3.png": "cat"}'),
    ],
)
def test_labels_from_a_file_override_folders(tmp_path, name, text):
    for path, red in (("x/1.png", 1), ("2.png", 2), ("x/3.png", 3)):
        flat(tmp_path / "p" / path, (red, 0, 0))
    run(plan(tmp_path / "p", labels=labelled(tmp_path, text, name)), tmp_path / "d")
    assert load(tmp_path / "d").classes == ("cat", "dog")
    assert reds(tmp_path / "d") == [("cat", 1), ("cat", 3), ("dog", 2)]


def test_numeric_labels_sort_as_numbers_and_007_is_a_name(tmp_path):
    root = farm(tmp_path / "p", all=[1, 2, 3])
    for k, (labels, classes) in enumerate([((10, 9, 2), ("2", "9", "10")), (("10", "9", "007"), ("007", "10", "9"))]):
        text = json.dumps({f"all/{red}.png": label for red, label in zip((1, 2, 3), labels, strict=True)})
        assert run(plan(root, labels=labelled(tmp_path, text, f"{k}.json")), tmp_path / f"d{k}").classes == classes


def test_stylegan_labels_in_a_zip_are_noted_and_used_with_labels_flag(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for k in range(4):
            archive.write(flat(tmp_path / f"{k}.png", (k, 0, 0)), f"00000/img{k:08d}.png")
        archive.writestr("dataset.json", json.dumps({"labels": [[f"00000/img{k:08d}.png", k % 2] for k in range(4)]}))
    job = start_packing(plan(tmp_path / "s.zip"), tmp_path / "one")
    assert len(job.source.notes) == 1
    assert "s.zip: " in job.source.notes[0]
    assert "--labels dataset.json" in job.source.notes[0]
    assert job.source.classes == ["00000"]
    dataset = run(plan(tmp_path / "s.zip", labels="dataset.json"), tmp_path / "two")
    assert dataset.classes == ("0", "1")
    assert reds(tmp_path / "two") == [("0", 0), ("0", 2), ("1", 1), ("1", 3)]


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("l.csv", "path,label\na/1.png,x\n", ("1 of 2 images", "no label", "'a/2.png'")),
        ("l.csv", "a/1.png,x\na/2.png,x\na/3.png,y\n", ("1 of its 3 paths", "'a/3.png'", "'a/1.png'")),
        ("l.csv", "a/1.png,x\na/2.png,x\n./a/1.png,y\n", ("line 3: './a/1.png'", "twice")),
        ("l.csv", "a/1.png,x\na/2.png,\n", ("line 2: 'a/2.png'", "empty")),
        ("l.csv", "a/1.png,tench, Tinca\na/2.png,x\n", ("line 1: 3 columns", "expected 2")),
        ("l.csv", "path,label\na/1.png\n", ("line 2: 1 columns", "expected 2")),
        ("l.csv", "", ("2 of 2 images", "no label")),
        ("l.json", '{"labels": [["a/1.png", 1]', ("JSON (",)),
        ("l.csv", "a/1.png,x\na/2.png,x\0", ("NUL",)),
        ("l.csv", '"a/1.png,x\n' + "x" * 140_000, ("CSV (", "quote")),
        ("l.json", "[" * 200_000, ("JSON (",)),
        ("l.json", '{"labels": null}', ("no labels", "--unconditional")),
        ("l.json", '{"labels": [["a/1.png", 1.5]]}', ("entry 0 is ['a/1.png', 1.5]",)),
        ("l.json", '{"labels": [["a/1.png", true]]}', ("entry 0 is ['a/1.png', True]",)),
        ("l.json", '{"labels": ["a/1.png"]}', ("entry 0 is 'a/1.png'",)),
        ("l.json", '{"labels": 3.5}', ("entry 0 is ('labels', 3.5)",)),
        ("l.json", '{"a/1.png": "x", "a/1.png": "y"}', ("JSON ('a/1.png'", "twice")),
        ("l.json", '[["a/1.png", 1]]', ('{"labels": [[path, label], ...]}', "{path: label}")),
        ("l.txt", "a/1.png,x", (".csv", ".json")),
    ],
)
def test_bad_label_files_are_refused_by_name(tmp_path, name, text, parts):
    root = farm(tmp_path / "p", a=[1, 2])
    file = labelled(tmp_path, text, name)
    refused(f"--labels: {file}: ", *parts, sources=[root], labels=file, dest=tmp_path / "d")


def test_label_files_that_are_missing_unreadable_or_unusable_are_refused(tmp_path):
    root, dest = farm(tmp_path / "p", a=[1, 2]), tmp_path / "d"
    refused("--labels: nowhere.csv: no such", str(root), sources=[root], labels="nowhere.csv", dest=dest)
    (tmp_path / "l.csv").write_bytes(b"a/1.png,\xff\n")
    file = str(tmp_path / "l.csv")
    refused("l.csv: ", "UTF-8", sources=[root], labels=file, dest=dest)
    with raises_input_error("--labels: ", "one SOURCE"):
        plan(root, tmp_path, labels=file)
    refused("--labels: digits ", sources=["digits"], labels=file, dest=dest)
    for flag, other in (("--labels", {"labels": file}), ("--classes", {"classes": ("a",)})):
        with raises_input_error("--unconditional: ", flag):
            plan(root, unconditional=True, **other)


def test_split_and_label_column_are_refused_for_sources_without_them(tmp_path):
    photos, dest = farm(tmp_path / "photos", cat=[1, 2], dog=[3]), tmp_path / "d"
    other = farm(tmp_path / "other", cat=[4])
    refused(f"--split: {photos}, {other}: ", sources=[photos, other], split="val", dest=dest)
    refused("--split: digits: ", sources=["digits"], split="test", dest=dest)
    refused(f"--label-column: {photos}: ", sources=[photos], label_column="kind", dest=dest)


def test_unconditional_takes_images_from_all_folders(tmp_path):
    root = farm(tmp_path / "p", cat=[1], dog=[2])
    flat(root / "3.png", (3, 0, 0))  # beside class folders: refused without the flag
    refused("'3.png'", "--unconditional", sources=[root], dest=tmp_path / "c")
    assert run(plan(root, unconditional=True), tmp_path / "d").classes == ("images",)
    assert [red for _, red in reds(tmp_path / "d")] == [1, 2, 3]
    assert run(plan("digits", unconditional=True, shards=1), tmp_path / "e").class_counts == (1797,)


def test_classes_are_selected_in_order_after_merging(tmp_path):
    root = farm(tmp_path / "p", ant=[1], beagle=[2], cat=[3], poodle=[4], yak=[5])
    merge = Merge("dogs", ("poodle", "beagle"))
    assert run(plan(root, merges=(merge,)), tmp_path / "all").classes == ("ant", "dogs", "cat", "yak")
    dataset = run(plan(root, merges=(merge,), classes=("yak", "dogs")), tmp_path / "d")
    assert (dataset.classes, dataset.class_counts) == (("yak", "dogs"), (1, 2))
    assert reds(tmp_path / "d") == [("dogs", 2), ("dogs", 4), ("yak", 5)]
    into_a_part = Merge("cat", ("cat", "yak"))
    assert run(plan(root, merges=(into_a_part,)), tmp_path / "e").classes == ("ant", "beagle", "cat", "poodle")


def test_unknown_and_repeated_classes_are_refused_with_the_nearest(tmp_path):
    root, dest = farm(tmp_path / "p", ant=[1], beagle=[2], cat=[3]), tmp_path / "d"
    for settings, parts in [
        ({"classes": ("cat", "beagel")}, ("--classes: ", "'beagel'", "nearest of 3: beagle")),
        ({"merges": (Merge("dogs", ("bagle",)),)}, ("--merge: ", "'bagle'", "nearest of 3: beagle")),
        ({"merges": (Merge("x", ("cat",)),), "classes": ("cat",)}, ("--classes: ", "'cat'", "nearest of 3: ")),
        ({"merges": (Merge("ant", ("cat", "beagle")),)}, ("--merge: 'ant' is an existing class",)),
        ({"merges": (Merge("x", ("cat",)), Merge("y", ("cat",)))}, ("--merge: 'cat'", "twice")),
        ({"merges": (Merge("x", ("cat",)), Merge("x", ("ant",)))}, ("--merge: 'x'", "twice")),
    ]:
        refused(*parts, sources=[root], dest=dest, **settings)


def test_class_lists_and_merges_are_parsed():
    assert parse_names('"tench, Tinca tinca", goldfish', "--classes") == ("tench, Tinca tinca", "goldfish")
    assert parse_merge("dogs=beagle, poodle") == Merge("dogs", ("beagle", "poodle"))
    for text, part in [("a,,b", "empty"), ("a,b,a", "'a' is given twice"), ('"a,b', "quote")]:
        with raises_input_error("--classes: ", part):
            parse_names(text, "--classes")
    for text in ("dogs", "=a", "dogs=", "dogs=a,a"):
        with pytest.raises(InputError, match=r"^--merge: "):
            parse_merge(text)


def test_balance_gives_equal_class_sizes_and_copies_differ_by_at_most_one(tmp_path):
    root = farm(tmp_path / "p", few=[1, 2, 3], many=range(10, 40), one=[200])
    dataset = run(plan(root, balance=True, shards=4), tmp_path / "d")
    assert dataset.balanced
    assert dataset.class_counts == dataset.splits["train"].class_counts == (30, 30, 30)
    assert Counter(reds(tmp_path / "d")) == Counter(
        {("few", red): 10 for red in (1, 2, 3)} | {("many", red): 1 for red in range(10, 40)} | {("one", 200): 30}
    )
    assert run(plan(root, balance=True, shards=4), tmp_path / "again", workers=2).splits == dataset.splits
    held = run(plan(root, balance=True, val_fraction=0.3, shards=4), tmp_path / "held")
    assert held.splits["val"].class_counts == (1, 9, 0), "held-out images are not repeated"
    assert held.splits["train"].class_counts == (21, 21, 21)
    train, val = ({red for _, red in reds(tmp_path / "held", split)} for split in ("train", "val"))
    assert not train & val
    uneven = run(plan(farm(tmp_path / "q", a=[1, 2, 3], b=range(10, 17)), balance=True), tmp_path / "u")
    assert uneven.class_counts == (7, 7)
    assert sorted(Counter(reds(tmp_path / "u"))["a", red] for red in (1, 2, 3)) == [2, 2, 3]


def test_repeated_unreadable_image_is_listed_once(tmp_path):
    root = farm(tmp_path / "p", few=[1], many=range(10, 20))
    (root / "few" / "bad.png").write_bytes(b"")
    dataset = run(plan(root, balance=True), tmp_path / "d")
    assert [s.path for s in dataset.skipped] == ["few/bad.png"]
    assert dataset.class_counts == (5, 10)


def test_another_plan_does_not_resume_a_pack(tmp_path):
    root, dest = farm(tmp_path / "p", cat=[1, 2], dog=[3, 4]), tmp_path / "d"
    start_packing(plan(root), dest)
    for settings in (
        {"crop": "top"}, {"channels": 1}, {"balance": True}, {"unconditional": True}, {"classes": ("cat", "dog")},
        {"merges": (Merge("x", ("cat",)),)},
    ):  # fmt: skip
        with raises_input_error(f"{dest}: ", "other settings"):
            start_packing(plan(root, **settings), dest)
    assert run(plan(root), dest).images == 4


def test_truncated_zips_are_refused_and_unused_parquet_files_noted(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.write(flat(tmp_path / "1.png", (1, 0, 0)), "a/1.png")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "whole.zip").read_bytes()[:-30])
    refused("cut.zip: ", "truncated", sources=[tmp_path / "cut.zip"], dest=tmp_path / "d")
    root = farm(tmp_path / "p", a=[1, 2])
    (root / "metadata.parquet").write_bytes(b"whatever")
    assert f"{root}: " in start_packing(plan(root), tmp_path / "d").source.notes[0]
    assert "'metadata.parquet'" in start_packing(plan(root), tmp_path / "d").source.notes[0]


def test_zips_with_backslashes_and_with_a_repeated_path(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for red, name in ((1, r"cat\1.png"), (2, "dog/2.png"), (3, "dog/2.png")):
            archive.write(flat(tmp_path / f"{red}.png", (red, 0, 0)), name)
        archive.writestr("dataset.json", "[" * 200_000)
    run(plan(tmp_path / "w.zip"), tmp_path / "d")
    assert reds(tmp_path / "d") == [("cat", 1), ("dog", 3)]


def test_link_loops_and_dangling_links_are_skipped(tmp_path):
    root = farm(tmp_path / "p", cat=[1], dog=[2])
    (root / "cat" / "self").symlink_to("..")
    (root / "up").symlink_to("..")
    (root / "dataset.json").symlink_to("nowhere")
    run(plan(root), tmp_path / "d")
    assert reds(tmp_path / "d") == [("cat", 1), ("dog", 2)]


def test_numeric_class_names_sort_as_numbers_in_every_kind_of_source(tmp_path):
    names = [str(k) for k in range(12)]
    root = farm(tmp_path / "p", **{name: [int(name)] for name in names})
    assert run(plan(root), tmp_path / "d").classes == tuple(names)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in names:
            archive.write(root / name / f"{name}.png", f"{name}/1.png")
    assert start_packing(plan(tmp_path / "p.zip"), tmp_path / "z").source.classes == names
    mixed = farm(tmp_path / "m", **{name: [1] for name in ("9", "10", "x")})
    assert start_packing(plan(mixed), tmp_path / "e").source.classes == ["10", "9", "x"]
    assert sorted_class_names(["10", "9", "10", "2"]) == ["2", "9", "10"]


def test_a_member_or_file_larger_than_any_image_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "MAX_FILE_BYTES", 2**20)
    root = farm(tmp_path / "p", cat=[1])
    (root / "cat" / "large.png").write_bytes(bytes(2**20 + 1))
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(root / "cat" / "1.png", "cat/1.png")
        archive.writestr("cat/large.png", bytes(2**26))
    assert (tmp_path / "p.zip").stat().st_size < 2**18
    for source, dest in ((root, tmp_path / "d"), (tmp_path / "p.zip", tmp_path / "z")):
        (skipped,) = run(plan(source), dest).skipped
        assert (skipped.path, "1 MiB" in skipped.reason) == ("cat/large.png", True)
    labels = labelled(tmp_path, "{" + " " * 2**20 + "}", "large.json")
    refused("--labels: ", "large.json: ", "1 MiB", sources=[root], dest=tmp_path / "e", labels=labels)


def test_control_characters_of_class_names_reach_no_terminal(tmp_path, run_command):
    root = farm(tmp_path / "p", **{"cat\x1b[31m\x07": [1], "dog": [2]})
    for arguments in (("pack", root, tmp_path / "d", "--resolution", 32), ("data", tmp_path / "d")):
        code, output = run_command(*arguments)
        assert code == 0
        assert "\x1b[31m" not in output
    assert "cat\\x1b[31m" in output
    code, output = run_command("pack", root, tmp_path / "e", "--resolution", 32, "--classes", "cat\x1b[31m")
    assert (code, output.count("\n"), "\x1b" in output) == (2, 1, False)
