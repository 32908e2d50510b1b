import errno
import os
from pathlib import Path

import pytest
from PIL import Image
from stand_ins import generator

from biggan.errors import InputError
from biggan.evaluation.evaluate import Settings
from biggan.evaluation.evaluation_run import save_figure
from biggan.evaluation.output_paths import check_output_paths, check_writable, default_out
from biggan.generation.trained_generator import TrainedGenerator


def source(origin, step=None, run=None):
    return TrainedGenerator(generator(), tuple("0123456789"), origin, step, None, {}, run)


def test_default_name_states_features_images_and_truncation():
    run = source("runs/a@1200", 1200, Path("runs/a"))
    folder = Path("runs/a/evaluation")
    names = {
        ("classifier", Settings(2000), (0.5,)): "classifier-2000-images-t0.5",
        ("torchvision:x", Settings(19), (None,)): "torchvision-x-19-images",
        ("a", Settings(20), (None, 1)): "a-20-images-sweep",
        ("a", Settings(20, seed=3, standing=False), (1.0,)): "a-20-images-t1-seed3-running",
    }
    for arguments, name in names.items():
        assert default_out(run, *arguments) == folder / f"step_00001200-{name}.json"
    requests = [
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
    assert len({default_out(run, *request) for request in requests}) == len(requests)


def test_default_folder_of_an_export_is_beside_it():
    for name in ("export", "b@best", "step_00000003"):
        out = default_out(source(f"/a/{name}"), "inception", Settings(10), [None])
        assert out.parent == Path(f"/a/{name}-evaluation")


@pytest.mark.parametrize("name", ["/", ".", "", "out", "out.png", "out.json.gz", "folder.json", "file/out.json"])
def test_an_unwritable_path_is_refused_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^--out: ") as error:
        check_writable(Path(name), "--out", (".json",))
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"folder.json", "file"}


def test_bad_paths_are_refused_by_flag_and_leave_no_file(tmp_path):
    out = tmp_path / "results" / "a.json"
    check_output_paths(out, tmp_path / "n.jpg", tmp_path / "s.npz", sweep=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["results"]
    for neighbours, statistics, flag in (
        ("n.psd", "s.npz", "--neighbours"), ("n", "s.npz", "--neighbours"), ("n.png", "s", "--write-statistics"),
        ("results/a.png", "s.npz", "--neighbours"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{flag}: "):
            check_output_paths(out, tmp_path / neighbours, tmp_path / statistics, sweep=True)
    out.with_suffix(".png").mkdir()
    with pytest.raises(InputError, match=r"^--out: .*a.png: "):
        check_output_paths(out, None, None, sweep=True)


def test_a_failed_write_keeps_the_previous_figure(tmp_path, monkeypatch):
    path = tmp_path / "sweep.png"
    path.write_bytes(b"previous figure")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(InputError, match=r"^--out: .*sweep.png: .*No space left"):
        save_figure(Image.new("RGB", (8, 8)), path, "--out")
    assert path.read_bytes() == b"previous figure"


def disk_full(_descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
