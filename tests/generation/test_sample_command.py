"""The command `biggan sample`: alone, killed, under torchrun, and with bad arguments."""

import os
import resource
import signal
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from runs import biggan, start
from sampling_run import saved_run

from biggan import cli
from biggan.cli.sample_command import save_image
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.generation.bulk import BulkRequest, write_images
from biggan.generation.writers import Folder, is_complete_png


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("run"), steps=(3, 6))


@pytest.fixture
def sample(monkeypatch, capsys, tmp_path):
    """Return a function that runs `biggan sample` in this process, in an empty folder: (exit code, output)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["biggan", "sample", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def images(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


REFUSED = {
    "--truncation 0": ("--truncation: 0.0;",),
    "--truncation -1": ("--truncation: -1.0;",),
    "--truncation nan": ("--truncation: nan;",),
    "--truncation inf": ("--truncation: inf;",),
    "--truncation big": ("--truncation: 'big';", "none"),
    "--num 0 --out a": ("--num: 0;", "1"),
    "--num -5 --out a": ("--num: -5;", "1"),
    "--per-class 0": ("--per-class: 0;", "1"),
    "--interpolate z --steps 1": ("--steps: 1;", "2"),
    "--classes ant,catt": ("--classes: ", "'catt'", "cat;", "0", "3"),
    "--classes 4": ("--classes: ", "'4'"),
    "--mix catt=1": ("--mix: ", "'catt'", "cat;", "0", "3"),
    "--mix cat": ("--mix: 'cat';", "NAME=WEIGHT"),
    "--mix cat=1 --interpolate z": ("--interpolate: ", "--mix"),
    "--num 5 --mix cat=1 --out a": ("--mix: ", "--num"),
    "--num 5 --per-class 3 --out a": ("--per-class: ", "--num"),
    "--interpolate class --classes ant": ("--classes: ", "--interpolate class "),
    "--num 5": ("--num: ", "--out FOLDER"),
    "--num 5 --out a.zip": ("--out: a.zip: ", "--num"),
    "--num 5 --out .zip": ("--out: .zip: ", "--num"),
    "--out a.txt": ("--out: a.txt: ", ".png"),
    "--out a": ("--out: a: ", ".png"),
    "--out /dev/null/a/b.png": ("--out: /dev/null/a/b.png: ", "Not a directory"),
    "--num 5 --out /dev/null/a": ("--out: /dev/null/a: ", "Not a directory"),
    "--num 5 --out /dev/null/a.tar": ("--out: /dev/null/a.tar: ", "Not a directory"),
}


def assert_refused(result, *parts):
    """Exit code 2 and exactly one line, which has every one of `parts`."""
    code, output = result
    assert (code, len(output.strip().splitlines())) == (2, 1), output
    assert [part for part in parts if part not in output] == [], output


@pytest.mark.parametrize(("arguments", "parts"), REFUSED.items(), ids=list(REFUSED))
def test_bad_arguments_are_refused_in_one_line_and_nothing_is_written(sample, run, tmp_path, arguments, parts):
    assert_refused(sample(run, *arguments.split(), "--running"), *parts)
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoints_and_unsuitable_generators_are_refused(sample, run, tmp_path):
    assert_refused(sample(f"{run}@4"), f"{run}@4: ", f"{run}@3")
    assert_refused(sample(f"{run}@x"), "RUN@STEP")
    assert_refused(sample(tmp_path), f"{tmp_path}: ", "step_*")
    plain = saved_run(tmp_path / "plain", class_embedding_dim=0, hierarchical_z="false")
    for arguments in (["--mix", "cat=1,dog=1"], ["--interpolate", "both"]):
        assert_refused(sample(plain, *arguments), "model.class_embedding_dim: 0")
    assert sample(plain, "--interpolate", "z", "--out", "z.png")[0] == 0


def test_full_disk_leaves_no_partial_picture_and_keeps_the_previous_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    before, after = map(Image.fromarray, noise)
    kept, new = tmp_path / "kept.png", tmp_path / "new.jpg"
    save_image(before, kept)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for path in (kept, new):
            with pytest.raises(InputError, match=f"^--out: {path}: .*File too large"):
                save_image(after, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [kept]
    assert np.array_equal(pixels(kept), noise[0])


def test_pictures_show_what_was_requested(sample, run):
    def picture(name, *arguments, of=run, statistics="--running"):
        code, output = sample(of, *arguments, statistics, "--out", f"{name}.png")
        assert code == 0, output
        return pixels(f"{name}.png")

    two = ["--classes", "cat,dog", "--per-class", 3]
    grid = picture("grid", *two)
    assert np.array_equal(picture("again", "--classes", "2, 3", "--per-class", 3, of=f"{run}@6"), grid)
    # The labels take the same room: a wider grid begins with the narrower one.
    assert np.array_equal(picture("wide", "--classes", "2,3", "--per-class", 4)[:, : grid.shape[1]], grid)
    assert np.array_equal(picture("untruncated", *two, "--truncation", "none"), grid)
    for k, other in enumerate((["--seed", 1], ["--truncation", 0.5])):
        assert not np.array_equal(picture(f"other{k}", *two, *other), grid)
    assert not np.array_equal(picture("standing", *two, statistics="--standing"), grid)
    assert not np.array_equal(picture("older", *two, of=f"{run}@3"), grid)
    unmixed = picture("mix", "--mix", "cat=2", "--mix", "dog=1", "--per-class", 3)
    assert np.array_equal(unmixed[:, -3 * 66 :], grid[:, -3 * 66 :])  # except the labels
    both = picture("both", "--interpolate", "both", "--classes", "0,1,2", "--steps", 5)
    line = picture("line", "--interpolate", "both", "--classes", "0,1,2", "--steps", 5, "--path", "line")
    assert both.shape == line.shape
    assert np.array_equal(both[:, -66:], line[:, -66:])  # the same ends
    assert not np.array_equal(both, line)


@pytest.mark.slow
@pytest.mark.parametrize("out", ["many", "many.tar"])
def test_killed_and_resumed_equals_uninterrupted(sample, run, tmp_path, out):
    many = [str(run), "--num", "1500", "--running", "--seed", "2", "--out"]
    path, parts = tmp_path / out, tmp_path / (f".{out}.partial" if out.endswith("tar") else out)
    job = start(["sample", *many, str(path)])
    while not parts.is_dir() or len(list(parts.iterdir())) < 9:
        assert job.poll() is None, job.stdout.read()
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not path.is_file()
    assert not (path / "labels.csv").exists()
    assert all(map(is_complete_png, path.glob("*.png")))
    assert sample(*many, path)[0] == 0
    assert sample(*many, tmp_path / f"uninterrupted{path.suffix}")[0] == 0
    if path.is_file():
        assert path.read_bytes() == (tmp_path / "uninterrupted.tar").read_bytes()
        assert not parts.exists()
    else:
        assert images(path) == images(tmp_path / "uninterrupted")
        assert {file.suffix for file in path.iterdir()} == {".png", ".csv", ".json"}


@pytest.mark.slow
def test_bits_are_the_same_on_one_two_and_three_processes(sample, run, tmp_path):
    def made(name, number, processes=1, *more):
        arguments = [str(run), "--num-images", str(number), *more, "--out", str(tmp_path / name)]
        if processes == 1:
            assert sample(*arguments)[0] == 0
        else:
            biggan(["sample", *arguments], processes=processes)
        return tmp_path / name

    ten, hundred = images(made("ten", 10)), images(made("hundred", 100))
    assert ten.items() <= hundred.items()
    assert len(hundred) == 100
    assert images(made("two", 100, 2)) == hundred
    one, three = (made(f"{count}.tar", 100, count, "--running", "--truncation", "0.5") for count in (1, 3))
    assert three.read_bytes() == one.read_bytes()


def test_processes_that_see_different_checkpoints_are_refused(tmp_path):
    request = BulkRequest("a", ("cat",), (0,), 5, None, 0, False)

    class Other(Process):
        def gather(self, value):
            return [value, BulkRequest("b", ("cat",), (0,), 5, None, 0, False)]

    process = Other(0, 2, torch.device("cpu"), None)
    with pytest.raises(InputError, match="RUN@STEP"):
        write_images(None, request, Folder(tmp_path / "a", request), process, print)
    assert not (tmp_path / "a").exists()
