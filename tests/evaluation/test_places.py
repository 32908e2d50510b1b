from pathlib import Path

import pytest
from cheap import generator

from biggan.errors import InputError
from biggan.evaluation.places import check_file, check_places, default_out
from biggan.generation.source import Source


def source(origin, step=None, run=None):
    return Source(generator(), tuple("0123456789"), origin, step, None, {}, run)


def test_a_file_is_named_after_what_was_measured():
    run = source("runs/a@1200", 1200, Path("runs/a"))
    folder = Path("runs/a/evaluation")
    assert default_out(run, "classifier", 2000, [0.5]) == folder / "step_00001200-classifier-2000-images-t0.5.json"
    assert default_out(run, "torchvision:x", 9, [None]) == folder / "step_00001200-torchvision-x-9-images.json"
    asked = [
        ("a", 20, [None]),
        ("a", 20, [0.5]),
        ("a", 20, [1.0]),
        ("a", 21, [None]),
        ("a", 20, [None, 1]),
        ("b", 20, [1]),
    ]
    assert len({default_out(run, *one) for one in asked}) == len(asked)


def test_what_is_no_run_has_a_folder_beside_it_whatever_its_name():
    for name in ("export", "b@best", "step_00000003"):
        assert default_out(source(f"/a/{name}"), "inception", 10, [None]).parent == Path(f"/a/{name}-evaluation")


@pytest.mark.parametrize("name", ["/", ".", "", "out", "out.png", "out.json.gz", "folder.json", "file/out.json"])
def test_what_cannot_be_written_is_refused_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^--out: .*; name ") as error:
        check_file(Path(name), "--out", (".json",))
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"folder.json", "file"}


def test_each_flag_is_named_and_nothing_is_left(tmp_path):
    out = tmp_path / "results" / "a.json"
    check_places(out, tmp_path / "n.jpg", tmp_path / "s.npz", sweep=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["results"]
    for neighbours, statistics, flag in (
        ("n.psd", "s.npz", "--neighbours"), ("n", "s.npz", "--neighbours"), ("n.png", "s", "--write-statistics"),
        ("results/a.png", "s.npz", "--neighbours"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{flag}: "):
            check_places(out, tmp_path / neighbours, tmp_path / statistics, sweep=True)
    out.with_suffix(".png").mkdir()
    with pytest.raises(InputError, match=r"^--out: .*a.png: is a folder"):
        check_places(out, None, None, sweep=True)
