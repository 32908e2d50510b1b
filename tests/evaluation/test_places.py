import errno
import os
from pathlib import Path

import pytest
from cheap import generator
from PIL import Image

from biggan.errors import InputError
from biggan.evaluation.evaluate import Settings
from biggan.evaluation.evaluation_run import save_picture
from biggan.evaluation.output_paths import check_file, check_places, default_out
from biggan.generation.trained_generator import TrainedGenerator


def source(origin, step=None, run=None):
    return TrainedGenerator(generator(), tuple("0123456789"), origin, step, None, {}, run)


def test_a_file_is_named_after_what_was_measured():
    run = source("runs/a@1200", 1200, Path("runs/a"))
    folder = Path("runs/a/evaluation")
    named = {
        ("classifier", Settings(2000), (0.5,)): "classifier-2000-images-t0.5",
        ("torchvision:x", Settings(19), (None,)): "torchvision-x-19-images",
        ("a", Settings(20), (None, 1)): "a-20-images-sweep",
        ("a", Settings(20, seed=3, standing=False), (1.0,)): "a-20-images-t1-seed3-running",
    }
    for asked, name in named.items():
        assert default_out(run, *asked) == folder / f"step_00001200-{name}.json"
    others = [
        ("a", Settings(20), [None]),
        ("a", Settings(20), [0.5]),
        ("a", Settings(20), [1.0]),
        ("a", Settings(21), [None]),
        ("a", Settings(20), [None, 1]),
        ("b", Settings(20), [1]),
        ("a", Settings(20, seed=1), [None]),
        ("a", Settings(20, seed=2), [None]),
        ("a", Settings(20, standing=False), [None]),
    ]
    assert len({default_out(run, *one) for one in others}) == len(others)


def test_what_is_no_run_has_a_folder_beside_it_whatever_its_name():
    for name in ("export", "b@best", "step_00000003"):
        out = default_out(source(f"/a/{name}"), "inception", Settings(10), [None])
        assert out.parent == Path(f"/a/{name}-evaluation")


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


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "sweep.png"
    path.write_bytes(b"the one before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"^--out: .*sweep.png: cannot be written \(No space left"):
        save_picture(Image.new("RGB", (8, 8)), path, "--out")
    assert path.read_bytes() == b"the one before"


def full(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
