"""Many sources, labels from files, and classes chosen, merged and balanced: what ends up in the shards."""

import json
import os
import zipfile
from collections import Counter

import pytest
from packs import flat, plan, reds, run

from biggan.data.dataset import load
from biggan.data.pack import begin
from biggan.data.sources.image_source import apart
from biggan.data.sources.selection import Merge, parse_merge, parse_names
from biggan.errors import InputError


def farm(root, **classes):
    """A folder of class folders; every image has one red of its own, by which it is found again."""
    for name, values in classes.items():
        for red in values:
            flat(root / name / f"{red}.png", (red, 0, 0))
    return root


def refused(match, *sources, dest, **settings):
    with pytest.raises(InputError, match=match) as error:
        run(plan(*sources, **settings), dest)
    assert "\n" not in str(error.value)
    assert not dest.exists()


def test_several_sources_are_one_data_set_by_class_name(tmp_path):
    a = farm(tmp_path / "a", cat=[1, 2], dog=[3])
    b = farm(tmp_path / "b", bird=[4], cat=[5])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(flat(tmp_path / "6.png", (6, 0, 0)), "dog/3.png")  # a name that `a` has too
    dataset = run(plan(a, b, tmp_path / "c.zip"), tmp_path / "d")
    assert dataset.classes == ("cat", "dog", "bird"), "in the order in which they are met"
    assert reds(tmp_path / "d") == [("bird", 4), ("cat", 1), ("cat", 2), ("cat", 5), ("dog", 3), ("dog", 6)]
    names = begin(plan(a, b, tmp_path / "c.zip"), tmp_path / "e").source.names
    assert len(set(names)) == len(names) == 6
    again = run(plan(a, b, tmp_path / "c.zip"), tmp_path / "again", workers=2)
    assert again.splits == dataset.splits
    (tmp_path / "link").symlink_to(a)
    for one, other in ((a, tmp_path / "link"), (tmp_path, a), (a / "cat", a)):
        with pytest.raises(InputError, match=r"SOURCE: \S+ is, or lies in, \S+; give each image once"):
            plan(one, other)


def test_names_that_are_not_utf8_are_escaped_and_their_files_read(tmp_path):
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


def test_classes_of_one_name_are_kept_apart_and_said():
    assert apart(["a", "b", "a", "a 2", "a"]) == ["a", "b", "a 3", "a 2", "a 4"]


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
def test_labels_from_a_file_overrule_folders(tmp_path, name, text):
    for path, red in (("x/1.png", 1), ("2.png", 2), ("x/3.png", 3)):
        flat(tmp_path / "p" / path, (red, 0, 0))
    run(plan(tmp_path / "p", labels=labelled(tmp_path, text, name)), tmp_path / "d")
    assert load(tmp_path / "d").classes == ("cat", "dog")
    assert reds(tmp_path / "d") == [("cat", 1), ("cat", 3), ("dog", 2)]


def test_numbers_as_labels_sort_as_numbers_and_007_is_a_name(tmp_path):
    root = farm(tmp_path / "p", all=[1, 2, 3])
    for k, (labels, classes) in enumerate([((10, 9, 2), ("2", "9", "10")), (("10", "9", "007"), ("007", "10", "9"))]):
        text = json.dumps({f"all/{red}.png": label for red, label in zip((1, 2, 3), labels, strict=True)})
        assert run(plan(root, labels=labelled(tmp_path, text, f"{k}.json")), tmp_path / f"d{k}").classes == classes


def test_stylegans_labels_in_a_zip_are_pointed_at_and_used_on_request(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for k in range(4):
            archive.write(flat(tmp_path / f"{k}.png", (k, 0, 0)), f"00000/img{k:08d}.png")
        archive.writestr("dataset.json", json.dumps({"labels": [[f"00000/img{k:08d}.png", k % 2] for k in range(4)]}))
    job = begin(plan(tmp_path / "s.zip"), tmp_path / "one")
    assert len(job.source.notes) == 1
    assert "its dataset.json holds labels, which are not used" in job.source.notes[0]
    assert job.source.classes == ["00000"]
    dataset = run(plan(tmp_path / "s.zip", labels="dataset.json"), tmp_path / "two")
    assert dataset.classes == ("0", "1")
    assert reds(tmp_path / "two") == [("0", 0), ("0", 2), ("1", 1), ("1", 3)]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("l.csv", "path,label\na/1.png,x\n", r"1 of 2 images in .* have no label, first 'a/2\.png'"),
        (
            "l.csv",
            "a/1.png,x\na/2.png,x\na/3.png,y\n",
            r"1 of its 3 paths are no images of .*, first 'a/3\.png'; .*'a/1\.p",
        ),
        ("l.csv", "a/1.png,x\na/2.png,x\n./a/1.png,y\n", r"line 3: '\./a/1\.png' stands there twice"),
        ("l.csv", "a/1.png,x\na/2.png,\n", r"line 2: 'a/2\.png' has an empty label"),
        ("l.csv", "a/1.png,tench, Tinca\na/2.png,x\n", r"line 1: 3 columns; expected 2"),
        ("l.csv", "path,label\na/1.png\n", r"line 2: 1 columns; expected 2"),
        ("l.csv", "", r"2 of 2 images in .* have no label"),
        ("l.json", '{"labels": [["a/1.png", 1]', r"cannot be read as JSON"),
        ("l.csv", "a/1.png,x\na/2.png,x\0", r"holds a NUL character"),
        ("l.csv", '"a/1.png,x\n' + "x" * 140_000, r"cannot be read as CSV \(.*\); is a quote not closed"),
        ("l.json", "[" * 200_000, r"cannot be read as JSON"),
        ("l.json", '{"labels": null}', r"holds no labels; pack with --unconditional"),
        ("l.json", '{"labels": [["a/1.png", 1.5]]}', r"entry 0 is \['a/1\.png', 1\.5\]; expected"),
        ("l.json", '{"labels": [["a/1.png", true]]}', r"entry 0 is "),
        ("l.json", '{"labels": ["a/1.png"]}', r"entry 0 is 'a/1\.png'; expected"),
        ("l.json", '{"labels": 3.5}', r"entry 0 is \('labels', 3\.5\); expected"),
        ("l.json", '{"a/1.png": "x", "a/1.png": "y"}', r"cannot be read as JSON \('a/1\.png' stands there twice"),
        ("l.json", '[["a/1.png", 1]]', r"neither .* nor \{path: label\}"),
        ("l.txt", "a/1.png,x", r"neither \.csv nor \.json"),
    ],
)
def test_bad_label_files_are_refused_by_name(tmp_path, name, text, match):
    root = farm(tmp_path / "p", a=[1, 2])
    file = labelled(tmp_path, text, name)
    refused(rf"--labels: \S*{name}: {match}", root, labels=file, dest=tmp_path / "d")


def test_label_files_that_cannot_be_read_or_do_not_belong(tmp_path):
    root, dest = farm(tmp_path / "p", a=[1, 2]), tmp_path / "d"
    refused(r"--labels: nowhere\.csv: no such file, nor one in ", root, labels="nowhere.csv", dest=dest)
    (tmp_path / "l.csv").write_bytes(b"a/1.png,\xff\n")
    file = str(tmp_path / "l.csv")
    refused(r"l\.csv: cannot be read as UTF-8 text", root, labels=file, dest=dest)
    with pytest.raises(InputError, match=r"--labels: its paths are relative to one SOURCE; give the folder above"):
        plan(root, tmp_path, labels=file)
    refused(r"--labels: digits has labels of its own", "digits", labels=file, dest=dest)
    for flag, other in (("--labels", {"labels": file}), ("--classes", {"classes": ("a",)})):
        with pytest.raises(InputError, match=f"--unconditional: there is one class then, and nothing for {flag}"):
            plan(root, unconditional=True, **other)


def test_splits_and_columns_of_what_has_none_are_refused(tmp_path):
    photos, dest = farm(tmp_path / "photos", cat=[1, 2], dog=[3]), tmp_path / "d"
    other = farm(tmp_path / "other", cat=[4])
    refused(r"--split: .*photos, .*other: says of no split what is in it", photos, other, split="val", dest=dest)
    refused(r"--split: digits: says of no split", "digits", split="test", dest=dest)
    refused(r"--label-column: .*photos: no column of labels is read", photos, label_column="kind", dest=dest)


def test_unconditional_takes_images_wherever_they_lie(tmp_path):
    root = farm(tmp_path / "p", cat=[1], dog=[2])
    flat(root / "3.png", (3, 0, 0))  # beside class folders: refused otherwise
    refused(r"'3\.png' lies beside class folders; .*--unconditional", root, dest=tmp_path / "c")
    assert run(plan(root, unconditional=True), tmp_path / "d").classes == ("images",)
    assert [red for _, red in reds(tmp_path / "d")] == [1, 2, 3]
    assert run(plan("digits", unconditional=True, shards=1), tmp_path / "e").class_counts == (1797,)


def test_classes_are_chosen_in_order_after_merging(tmp_path):
    root = farm(tmp_path / "p", ant=[1], beagle=[2], cat=[3], poodle=[4], yak=[5])
    merge = Merge("dogs", ("poodle", "beagle"))
    assert run(plan(root, merges=(merge,)), tmp_path / "all").classes == ("ant", "dogs", "cat", "yak")
    dataset = run(plan(root, merges=(merge,), classes=("yak", "dogs")), tmp_path / "d")
    assert (dataset.classes, dataset.class_counts) == (("yak", "dogs"), (1, 2))
    assert reds(tmp_path / "d") == [("dogs", 2), ("dogs", 4), ("yak", 5)]
    into_a_part = Merge("cat", ("cat", "yak"))
    assert run(plan(root, merges=(into_a_part,)), tmp_path / "e").classes == ("ant", "beagle", "cat", "poodle")


def test_classes_that_are_not_there_are_refused_with_the_nearest(tmp_path):
    root, dest = farm(tmp_path / "p", ant=[1], beagle=[2], cat=[3]), tmp_path / "d"
    for settings, match in [
        ({"classes": ("cat", "beagel")}, r"--classes: no class 'beagel'; nearest of 3: beagle"),
        ({"merges": (Merge("dogs", ("bagle",)),)}, r"--merge: no class 'bagle'; nearest of 3: beagle"),
        ({"merges": (Merge("x", ("cat",)),), "classes": ("cat",)}, r"--classes: no class 'cat'; nearest of 3: "),
        ({"merges": (Merge("ant", ("cat", "beagle")),)}, r"--merge: 'ant' is a class already; name it among the parts"),
        ({"merges": (Merge("x", ("cat",)), Merge("y", ("cat",)))}, r"--merge: 'cat' is named twice"),
        ({"merges": (Merge("x", ("cat",)), Merge("x", ("ant",)))}, r"--merge: 'x' is named twice"),
    ]:
        refused(match, root, dest=dest, **settings)


def test_lists_of_classes_as_users_write_them():
    assert parse_names('"tench, Tinca tinca", goldfish', "--classes") == ("tench, Tinca tinca", "goldfish")
    assert parse_merge("dogs=beagle, poodle") == Merge("dogs", ("beagle", "poodle"))
    for text, match in [("a,,b", "an empty name"), ("a,b,a", "'a' is named twice"), ('"a,b', "a quote is not closed")]:
        with pytest.raises(InputError, match=match):
            parse_names(text, "--classes")
    for text in ("dogs", "=a", "dogs=", "dogs=a,a"):
        with pytest.raises(InputError, match=r"^--merge: "):
            parse_merge(text)


def test_balanced_classes_are_of_one_size_and_copies_differ_by_one_at_most(tmp_path):
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


def test_an_unreadable_image_is_told_of_once_however_often_it_would_stand_there(tmp_path):
    root = farm(tmp_path / "p", few=[1], many=range(10, 20))
    (root / "few" / "bad.png").write_bytes(b"")
    dataset = run(plan(root, balance=True), tmp_path / "d")
    assert [s.path for s in dataset.skipped] == ["few/bad.png"]
    assert dataset.class_counts == (5, 10)


def test_another_plan_does_not_go_on_with_a_pack(tmp_path):
    root, dest = farm(tmp_path / "p", cat=[1, 2], dog=[3, 4]), tmp_path / "d"
    begin(plan(root), dest)
    for settings in (
        {"crop": "top"}, {"channels": 1}, {"balance": True}, {"unconditional": True}, {"classes": ("cat", "dog")},
        {"merges": (Merge("x", ("cat",)),)},
    ):  # fmt: skip
        with pytest.raises(InputError, match="holds a pack begun with other settings"):
            begin(plan(root, **settings), dest)
    assert run(plan(root), dest).images == 4


def test_zips_cut_short_and_stray_parquet_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.write(flat(tmp_path / "1.png", (1, 0, 0)), "a/1.png")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "whole.zip").read_bytes()[:-30])
    refused(r"cut\.zip: is no zip that can be read \(cut short\?\)", tmp_path / "cut.zip", dest=tmp_path / "d")
    root = farm(tmp_path / "p", a=[1, 2])
    (root / "metadata.parquet").write_bytes(b"whatever")
    assert "'metadata.parquet' is not used" in begin(plan(root), tmp_path / "d").source.notes[0]


def test_zips_of_windows_and_of_one_path_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for red, name in ((1, r"cat\1.png"), (2, "dog/2.png"), (3, "dog/2.png")):
            archive.write(flat(tmp_path / f"{red}.png", (red, 0, 0)), name)
        archive.writestr("dataset.json", "[" * 200_000)
    run(plan(tmp_path / "w.zip"), tmp_path / "d")
    assert reds(tmp_path / "d") == [("cat", 1), ("dog", 3)]


def test_folders_linked_in_a_loop_and_notes_that_are_not_there(tmp_path):
    root = farm(tmp_path / "p", cat=[1], dog=[2])
    (root / "cat" / "self").symlink_to("..")
    (root / "up").symlink_to("..")
    (root / "dataset.json").symlink_to("nowhere")
    run(plan(root), tmp_path / "d")
    assert reds(tmp_path / "d") == [("cat", 1), ("dog", 2)]
