"""The commands as users type them: messages, exit codes, and no partial output."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import biggan, command, environment, pack_digits

from biggan import cli
from biggan.cli import failures
from biggan.data.dataset import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs a command in this process and returns (exit code, output)."""

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


def refuses(result, *parts):
    """Check for exit code 2 and one line that contains all parts: keys, flags, files, values."""
    code, output = result
    assert code == 2, output
    for part in parts:
        assert part in output, (part, output)
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1


def test_help_imports_no_heavy_module():
    heavy = ("torch", "mlflow", "webdataset", "numpy", "pydantic", "sklearn")
    code = (
        "import sys, contextlib\nfrom biggan.cli import main\nsys.argv = ['biggan', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for name in ("train", "pack", "data", "sample", "doctor", "report"):
        assert name in done.stdout


def test_dry_run_prints_the_cost_and_starts_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    code, output = run("train", ROOT / "configs/imagenet128.yaml", "--dry-run", "model.z_dim=125")
    assert code == 0
    assert "resolution: 128" in output
    assert re.search(r"model\.z_dim: 125 .*\b120\b.*\b6 chunks of 20\b", output)
    assert re.search(r"generator parameters.*70,433,988", output)
    assert re.search(r"discriminator parameters.*87,982,370", output)
    assert re.search(r"images per G iteration.*4,096", output)
    assert re.search(r"TFLOP per G iteration.*\d", output)
    assert re.search(r"estimated memory.*GiB", output)
    assert "BatchNorm layers" not in output  # one process has no statistics to share
    assert list(tmp_path.iterdir()) == []


def test_failure_that_spares_the_first_process_of_a_machine_is_reported(run, tiny, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(failures, "FIRST_PROCESS_HEAD_START_SECONDS", 0)
    refuses(run("train", *tiny, "training.batch_size=13"), "data.streams: ", " 13 ")


def test_child_run_needs_a_checkpoint_and_a_folder(run, tmp_path):
    refuses(run("train", "--resume", "runs/a@6"), "--resume RUN@STEP", "--as NEWRUN")
    refuses(run("train", "--as", "runs/b"), "--resume RUN@STEP", "--as NEWRUN")
    refuses(run("train", "--resume", f"{tmp_path}@6", "--as", "b"), "--resume: ", str(tmp_path))
    refuses(run("train"), "CONFIG: ", "--resume RUN@STEP --as NEWRUN")
    refuses(run("probe", str(tmp_path)), "RUN@STEP: ", str(tmp_path))


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
    assert (code, "BatchNorm" in output) == (0, False)  # no statistics are shared


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
    refuses(run("train", *tiny, "--calibration", file), "--calibration: ", "--dry-run")
    refuses(run("train", *tiny, "--dry-run", "--calibration", tmp_path / "no"), f"{tmp_path / 'no'}: ", "No such file")
    instant = [collective | {"seconds": 0} for collective in slow]
    for broken in (
        "{",
        "[]",
        *(json.dumps(measured | key) for key in ({"collectives": slow[:1]}, {"collectives": instant}, {"hosts": []})),
    ):
        file.write_text(broken)
        refuses(run("train", *tiny, "--dry-run", "--calibration", file), f"{file}: ", "`biggan doctor --json`")
    assert "(hosts: " in run("train", *tiny, "--dry-run", "--calibration", file)[1]


def test_bad_training_input_is_refused_before_any_output(run, tiny, digits, tmp_path):
    refuses(run("train", *tiny, "training.stepz=1"), "training.stepz: ", "nearest: training.steps")
    refuses(run("train", *tiny, f"data.path={tmp_path / 'none'}"), "data.path: ", "none --resolution N`")
    refuses(run("train", *tiny, f"data.path={tmp_path}"), f"data.path: {tmp_path} ", "dataset.json", "`biggan pack ")
    refuses(run("train", *tiny, "model.classes=3"), "model.classes: 3", "model.classes=10")
    refuses(run("train", *tiny, "model.resolution=64"), "model.resolution: 64", "model.resolution=32")
    refuses(run("train", *tiny, "data.streams=12", "data.path=pipe:x"), "data.path: 'pipe:x'", "data.allow_pipe=true")
    refuses(run("train", *tiny, "checkpoint.max_gib=1e-9"), "checkpoint.max_gib: 1e-09 GiB")
    refuses(run("train", *tiny, "training.batch_size=48", "data.streams=24"), "data.streams: 24", " 12;", "--shards 24")
    assert not (tmp_path / "run").exists()


def test_missing_shard_is_named_before_training(run, tiny, digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    (broken / "train-00007.tar").unlink()
    refuses(run("train", *tiny, f"data.path={broken}"), f"{broken}/train-00007.tar: ", "missing")


def test_world_size_that_does_not_divide_the_streams_is_refused(run, tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    refuses(run("train", *tiny, "--dry-run"), "data.streams: 6 ", " 4 processes", " 4, 12")


def test_fresh_and_foreign_folders_are_refused(run, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    refuses(run("train", *tiny, "--fresh"), "--fresh: ", str(tmp_path / "run"))
    refuses(run("train", *tiny), "run.dir: ", str(tmp_path / "run"))
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_run_killed_at_its_start_can_start_again(run, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.partial").write_text("run:")
    assert run("train", *tiny, "training.steps=1")[0] == 0


def test_another_data_set_is_refused_when_resuming(run, tiny, digits, tmp_path):
    assert run("train", *tiny, "training.steps=1")[0] == 0
    other = tmp_path / "other"
    pack_digits(other, val_fraction=0.1)
    refuses(run("train", *tiny, f"data.path={other}"), f"data.path: {other} ", str(tmp_path / "run"))
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
    refuses(run("train", *tiny, "optimizer.g_lr=1e-3"), "optimizer.g_lr: 0.001", str(folder))
    refuses(run("train", *tiny, "--fresh"), "--fresh: ", str(folder))
    refuses(run("train", *tiny, "training.steps=3"), "training.steps: 3", str(folder))

    code, _ = run("sample", folder, "--classes", "3,7", "--per-class", "2", "--truncation", "0.5", "--out", "a.png")
    assert code == 0
    run("sample", folder, "--classes", "3,7", "--per-class", "2", "--truncation", "0.5", "--out", "b.png")
    run("sample", folder, "--classes", "3,7", "--per-class", "2", "--seed", "1", "--out", "c.png")
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert run("sample", checkpoint, "--out", "d.png")[0] == 0
    refuses(run("sample", folder, "--classes", "seven"), "--classes: ", "'seven'")
    refuses(run("sample", folder, "--truncation", "-1"), "--truncation: -1.0")
    refuses(run("sample", tmp_path), str(tmp_path), "checkpoint")
    refuses(run("sample", folder, "--out", tmp_path / "a.xyz"), "--out: ")
    (checkpoint / "ema.safetensors").write_bytes(b"")
    code, output = run("sample", checkpoint)
    assert (code, "ema.safetensors" in output) == (5, True)


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
    for part in ("packed: 32 images (29 train, 3 val)", "2 classes", "32 px", "; 1 unreadable"):
        assert part in output
    assert load(tmp_path / "packed").preprocessing.encoding == "png"
    code, output = run("data", "packed")
    assert code == 0
    assert re.search(r"ant +30 █{40}", output)
    assert re.search(r"warning: .*'ant' has 27 .*'bee' has 2\b.*--balance", output)
    sheet = Image.open(tmp_path / "packed" / "contact_sheet.png")
    assert sheet.height == 2 * 66
    refuses(run("pack", "photos", "packed", "--resolution", 32), "packed: already ")
    refuses(run("pack", "nowhere", "other", "--resolution", 32), "nowhere: no such ")
    refuses(run("pack", "photo", "other", "--resolution", 32), "photo: no such ", "nearest: photos", "digits")
    assert run("pack", "photos", "other", "--resolution", "big")[0] == 2
    assert not (tmp_path / "other").exists()


def test_pack_flags_merge_select_balance_and_convert(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, name, count in (("a", "ant", 6), ("a", "bee", 2), ("b", "cow", 3), ("b", "ant", 1)):
        (tmp_path / place / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (50, 40), (200, 0, 0)).save(tmp_path / place / name / f"{k}.png")
    flags = ("--resolution", 32, "--shards", 2, "--workers", 1)
    merged = ("--merge", "insects=ant,bee", "--classes", "cow,insects", "--balance", "--grey", "--crop", "pad")
    code, output = run("pack", "a", "b", "packed", *flags, *merged)
    assert code == 0, output
    for part in ("packed: 18 images (18 train)", "2 classes", "32 px, grey, balanced", "; 0 unreadable"):
        assert part in output
    packed = load(tmp_path / "packed")
    assert (packed.classes, packed.class_counts, packed.channels) == (("cow", "insects"), (9, 9), 1)
    assert packed.preprocessing.crop == "none: black bars make it a square"
    code, output = run("data", "packed", "--out", "sheet.png")
    assert code == 0, output
    assert "18 images, 32 px, grey, balanced" in output
    assert (60, 60, 60) in Image.open(tmp_path / "sheet.png").get_flattened_data()  # 0.299 * 200
    (tmp_path / "labels.json").write_text(json.dumps({"ant/0.png": 1}))
    refuses(run("pack", "b", "other", *flags, "--labels", "labels.json"), "--labels: labels.json: 3 of 4 images in b")
    refuses(run("pack", "a", "other", *flags, "--merge", "ant"), "--merge: 'ant'", "NAME=CLASS,CLASS")
    refuses(run("pack", "a", "other", *flags, "--classes", "wasp"), "--classes: ", "'wasp'")
    refuses(run("pack", "a", "a", "other", *flags), "SOURCE: a ")
    assert run("pack", "a", "other", *flags, "--crop", "sideways")[0] == 2
    assert not (tmp_path / "other").exists()


def test_python_dash_m_is_the_same_program():
    program = command(["train", "x.yaml"])
    done = subprocess.run(program, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"biggan: x\.yaml: .*configs/\n", done.stderr)


@pytest.mark.slow
def test_bad_input_is_reported_once_under_torchrun(tiny):
    output = biggan(["train", *tiny, "data.streams=3"], processes=2, expect=1)
    (line,) = [line for line in output.splitlines() if line.startswith("biggan: ")]
    assert line.startswith("biggan: data.streams: 3 ")
    assert " 2, 4, 6, 12" in line
