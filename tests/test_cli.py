"""The commands as users type them: messages, exit codes, and nothing half-written."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import biggan, environment, pack_digits

from biggan import cli
from biggan.cli import failures
from biggan.data.dataset import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: (exit code, output)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["biggan", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return command


def refuses(result, message):
    code, output = result
    assert code == 2, output
    assert message in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1


def test_help_needs_no_heavy_import():
    heavy = ("torch", "mlflow", "webdataset", "numpy", "pydantic", "sklearn")
    code = (
        "import sys, contextlib\nfrom biggan.cli import main\nsys.argv = ['biggan', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("train", "pack", "data", "sample", "doctor", "report"):
        assert command in done.stdout


def test_dry_run_prints_the_cost_and_starts_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    code, output = run("train", ROOT / "configs/imagenet128.yaml", "--dry-run", "model.z_dim=125")
    assert code == 0
    assert "resolution: 128" in output
    assert "model.z_dim: 125 is rounded down to 120, 6 chunks of 20" in output
    assert re.search(r"generator parameters.*70,433,988", output)
    assert re.search(r"discriminator parameters.*87,982,370", output)
    assert re.search(r"images per G iteration.*4,096", output)
    assert re.search(r"TFLOP per G iteration.*\d", output)
    assert re.search(r"estimated memory.*GiB", output)
    assert "BatchNorm layers" not in output  # one process shares statistics with nobody
    assert list(tmp_path.iterdir()) == []


def test_what_fails_in_no_machines_first_process_is_said_all_the_same(run, tiny, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(failures, "SECONDS_FOR_THE_FIRST", 0)
    refuses(run("train", *tiny, "training.batch_size=13"), "data.streams: 6")


def test_a_child_run_needs_a_checkpoint_and_a_folder(run, tmp_path):
    refuses(run("train", "--resume", "runs/a@6"), "--resume RUN@STEP and --as NEWRUN go together")
    refuses(run("train", "--as", "runs/b"), "--resume RUN@STEP and --as NEWRUN go together")
    refuses(run("train", "--resume", f"{tmp_path}@6", "--as", "b"), "--resume: ")
    refuses(run("train"), "CONFIG: which?")
    refuses(run("probe", str(tmp_path)), "write RUN@STEP")


def test_dry_run_on_many_processes_compares_the_engines(run, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, output = run("train", *tiny, "--dry-run")
    assert code == 0
    assert re.search(r"DDP .*ZeRO 1 .*ZeRO 2", output)
    assert re.search(r"BatchNorm layers that share statistics .* 7 ", output)
    assert re.search(r"BatchNorm forward, all-gather .* 21 ", output)  # 7 layers, 2 D steps and 1 G step
    assert re.search(r"BatchNorm backward, all-reduce .* 7 ", output)
    assert re.search(r"images/s, all processes .*\d", output)
    assert output.index("for an assumed cluster of H100 GPUs, not this machine") < output.index("seconds per G")
    code, output = run("train", *tiny, "--dry-run", "distributed.batchnorm_group_size=1")
    assert (code, "BatchNorm" in output) == (0, False)  # nothing is shared


def test_dry_run_predicts_from_a_calibration(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = tmp_path / "doctor.json"
    slow = [
        {"operation": name, "bytes": size, "seconds": 10 + size * 1e-3}
        for name in ("all_reduce", "all_gather")
        for size in (8, 2**20)
    ]
    measured = {"world_size": 2, "hosts": ["a"], "backend": "gloo", "collectives": slow}
    file.write_text(json.dumps(measured))
    code, output = run("train", *tiny, "--dry-run", "--calibration", file)
    assert code == 0
    assert re.search(r"images/s, all processes .* 0 ", output)
    assert "assumed cluster" not in output
    assert f"numbers: links measured ({file}), computing assumed)" in output
    file.write_text(json.dumps(measured | {"compute_scale": 2.0}))
    assert f"numbers: measured, {file})" in run("train", *tiny, "--dry-run", "--calibration", file)[1]
    refuses(run("train", *tiny, "--calibration", file), "--calibration: only a dry run predicts")
    refuses(run("train", *tiny, "--dry-run", "--calibration", tmp_path / "no"), "no: cannot be read (No such file")
    instant = [collective | {"seconds": 0} for collective in slow]
    for broken in (
        "{",
        "[]",
        *(json.dumps(measured | key) for key in ({"collectives": slow[:1]}, {"collectives": instant}, {"hosts": []})),
    ):
        file.write_text(broken)
        refuses(run("train", *tiny, "--dry-run", "--calibration", file), "not what `biggan doctor --json` writes")
    assert "(hosts: " in run("train", *tiny, "--dry-run", "--calibration", file)[1]


def test_bad_training_input_is_refused_before_anything_is_written(run, tiny, digits, tmp_path):
    refuses(run("train", *tiny, "training.stepz=1"), "training.stepz: no such key; nearest: training.steps")
    refuses(run("train", *tiny, f"data.path={tmp_path / 'none'}"), "none --resolution N`")
    refuses(run("train", *tiny, f"data.path={tmp_path}"), "is not a packed data set (no dataset.json); make one with")
    refuses(run("train", *tiny, "model.classes=3"), "model.classes: 3, but the data set has 10 classes")
    refuses(run("train", *tiny, "model.resolution=64"), "but the data set was packed at 32 px")
    refuses(run("train", *tiny, "data.streams=12", "data.path=pipe:x"), "runs a shell command")
    refuses(run("train", *tiny, "checkpoint.max_gib=1e-9"), "checkpoint.max_gib: 1e-09 GiB does not hold the newest")
    refuses(run("train", *tiny, "training.batch_size=48", "data.streams=24"), "the data set has 12")
    assert not (tmp_path / "run").exists()


def test_missing_shard_is_named_before_training(run, tiny, digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    (broken / "train-00007.tar").unlink()
    refuses(run("train", *tiny, f"data.path={broken}"), f"{broken}/train-00007.tar: shard is missing")


def test_world_size_that_does_not_divide(run, tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    refuses(run("train", *tiny, "--dry-run"), "data.streams: 6")


def test_fresh_and_foreign_folders(run, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    refuses(run("train", *tiny, "--fresh"), "--fresh: ")
    refuses(run("train", *tiny), "run.dir: ")
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_it_was_begun_can_begin_again(run, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.partial").write_text("run:")
    assert run("train", *tiny, "training.steps=1")[0] == 0


def test_another_data_set_is_refused_in_an_existing_run(run, tiny, digits, tmp_path):
    assert run("train", *tiny, "training.steps=1")[0] == 0
    other = tmp_path / "other"
    pack_digits(other, val_fraction=0.1)
    refuses(run("train", *tiny, f"data.path={other}"), "is not the data set of the run in")
    moved = shutil.copytree(digits, tmp_path / "moved")
    assert run("train", *tiny, f"data.path={moved}", "training.steps=2")[0] == 0


def test_train_resume_sample_and_changed_settings(run, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run("train", *tiny, "--fresh", "training.steps=3", "samples.every_steps=2")
    assert code == 0, output
    folder = tmp_path / "run"
    checkpoint = folder / "checkpoints" / "step_00000003"
    assert {f.name for f in checkpoint.iterdir()} >= {
        "generator.safetensors",
        "discriminator.safetensors",
        "ema.safetensors",
    }
    assert {f.name for f in (folder / "samples").iterdir()} == {"step_00000002.png", "step_00000003.png"}
    code, output = run("train", *tiny, "training.steps=4")
    assert code == 0
    assert f"resuming from {checkpoint}" in output
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["images_seen"] == 4 * 2 * 12
    code, output = run("train", *tiny, "training.steps=4")
    assert code == 0
    assert "nothing to train" in output
    assert "done" not in output
    code, output = run("train", "--resume", f"{folder}@4", "--as", tmp_path / "child")
    assert code == 2
    assert "training.steps: 4" in output
    assert not (tmp_path / "child").exists()
    refuses(run("train", *tiny, "optimizer.g_lr=1e-3"), "optimizer.g_lr: 0.001, but the run in")
    refuses(run("train", *tiny, "--fresh"), "is not empty")
    refuses(run("train", *tiny, "training.steps=3"), "training.steps: 3, but the run in")

    code, _ = run("sample", folder, "--classes", "3,7", "--per-class", "2", "--truncation", "0.5", "--out", "a.png")
    assert code == 0
    run("sample", folder, "--classes", "3,7", "--per-class", "2", "--truncation", "0.5", "--out", "b.png")
    run("sample", folder, "--classes", "3,7", "--per-class", "2", "--seed", "1", "--out", "c.png")
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert run("sample", checkpoint, "--out", "d.png")[0] == 0
    refuses(run("sample", folder, "--classes", "seven"), "--classes: no class 'seven'")
    refuses(run("sample", folder, "--truncation", "-1"), "--truncation: -1.0; use a number above 0")
    refuses(run("sample", tmp_path), "neither a checkpoint nor a run with one")
    refuses(run("sample", folder, "--out", tmp_path / "a.xyz"), "--out: ")
    (checkpoint / "ema.safetensors").write_bytes(b"")
    code, output = run("sample", checkpoint)
    assert (code, "ema.safetensors is damaged" in output) == (5, True)


def test_pack_and_data(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("ant", 30), ("bee", 2)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "photos" / name / f"{k}.jpg")
    (tmp_path / "photos" / "bee" / "broken.jpg").write_text("")
    code, output = run("pack", "photos", "packed", "--resolution", 32, "--shards", 4, "--val-fraction", 0.1)
    assert code == 0, output
    assert "skipped bee/broken.jpg" in output
    assert "32 images (29 train, 3 val) of 2 classes at 32 px; 1 unreadable skipped" in output
    assert load(tmp_path / "packed").preprocessing.encoding == "png"
    code, output = run("data", "packed")
    assert code == 0
    assert re.search(r"ant +30 █{40}", output)
    assert "warning: classes are skewed: 'ant' has 27 images, 'bee' 2" in output
    sheet = Image.open(tmp_path / "packed" / "contact_sheet.png")
    assert sheet.height == 2 * 66
    refuses(run("pack", "photos", "packed", "--resolution", 32), "already holds a packed data set")
    refuses(run("pack", "nowhere", "other", "--resolution", 32), "nowhere: no such folder, zip or parquet file")
    refuses(run("pack", "photo", "other", "--resolution", 32), "parquet file; nearest: photos (also known: digits")
    assert run("pack", "photos", "other", "--resolution", "big")[0] == 2
    assert not (tmp_path / "other").exists()


def test_what_is_packed_and_how(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, name, count in (("a", "ant", 6), ("a", "bee", 2), ("b", "cow", 3), ("b", "ant", 1)):
        (tmp_path / place / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (50, 40), (200, 0, 0)).save(tmp_path / place / name / f"{k}.png")
    flags = ("--resolution", 32, "--shards", 2, "--workers", 1)
    merged = ("--merge", "insects=ant,bee", "--classes", "cow,insects", "--balance", "--grey", "--crop", "pad")
    code, output = run("pack", "a", "b", "packed", *flags, *merged)
    assert code == 0, output
    assert "packed: 18 images (18 train) of 2 classes at 32 px, grey, balanced; 0 unreadable skipped" in output
    packed = load(tmp_path / "packed")
    assert (packed.classes, packed.class_counts, packed.channels) == (("cow", "insects"), (9, 9), 1)
    assert packed.preprocessing.crop == "none: black bars make it a square"
    code, output = run("data", "packed", "--out", "sheet.png")
    assert code == 0, output
    assert "18 images, 32 px, grey, balanced" in output
    assert (60, 60, 60) in Image.open(tmp_path / "sheet.png").get_flattened_data()  # 0.299 * 200
    (tmp_path / "labels.json").write_text(json.dumps({"ant/0.png": 1}))
    refuses(run("pack", "b", "other", *flags, "--labels", "labels.json"), "--labels: labels.json: 3 of 4 images in b")
    refuses(run("pack", "a", "other", *flags, "--merge", "ant"), "--merge: 'ant'; write NAME=CLASS,CLASS")
    refuses(run("pack", "a", "other", *flags, "--classes", "wasp"), "--classes: no class 'wasp'")
    refuses(run("pack", "a", "a", "other", *flags), "SOURCE: a is, or lies in, ")
    assert run("pack", "a", "other", *flags, "--crop", "sideways")[0] == 2
    assert not (tmp_path / "other").exists()


def test_python_dash_m_is_the_same_program():
    assert "Train class-conditional BigGANs" in biggan(["--help"])
    done = subprocess.run(
        [sys.executable, "-m", "biggan", "train", "x.yaml"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"biggan: x\.yaml: .*configs/\n", done.stderr)


@pytest.mark.slow
def test_under_torchrun_bad_input_is_said_once(tiny):
    output = biggan(["train", *tiny, "data.streams=3"], processes=2, expect=1)
    assert output.count("biggan: data.streams: 3") == 1
