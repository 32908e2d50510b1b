"""A run that ends early ends in order: one line, its own exit code, a state to go on from."""

import json
import os
import shutil
import signal
import subprocess
import tarfile

import pytest
import torch
from runs import biggan, finish, start, wait_for, weights

from biggan.files import sha256_of

MLFLOW = "tracking.mlflow=true"
SITE = """
from dataclasses import replace
import torch
from biggan.objectives.adversarial import LOSSES
plain, calls = LOSSES["hinge"], 0

def d_loss(real, fake):
    global calls
    calls += 1
    a, b = plain.d_loss(real, fake)
    return (a * float("nan"), b) if calls == 9 {condition} else (a, b)

LOSSES["hinge"] = replace(plain, d_loss=d_loss)
"""


def wait_for_step(run, step, process):
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and f'"step": {step},' in metrics.read_text(), process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_the_same_command_goes_on(tiny, tmp_path, undisturbed, number):
    arguments = ["train", *tiny, "training.steps=30", "checkpoint.every_steps=1000"]
    process = start(arguments)
    wait_for_step(tmp_path / "run", 3, process)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does: readers get it too
    os.kill(process.pid, number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    before, end, _ = output.partition("stopped by a signal after step")
    assert end, output
    assert before.count("stopping after this step") == (number == signal.SIGINT)
    assert "Traceback" not in output
    assert "resuming from" in biggan(arguments)
    ends = [weights(run / "checkpoints/step_00000030") for run in (tmp_path / "run", undisturbed(*arguments[4:]))]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_torchrun_stops_all_ranks_with_a_checkpoint(tiny, tmp_path, number):
    process = start(["train", *tiny, "training.steps=10000", "checkpoint.every_steps=100000", MLFLOW], processes=2)
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"stopped by a signal after step {last}" in output
    assert "stopping after this step" not in output  # torchrun's SIGTERM may as well mean another's error
    assert saved.name == f"step_{last:08d}"


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "engine"), [(1, "ddp"), (2, "ddp"), (2, "deepspeed")])
def test_a_non_finite_loss_stops_at_the_logging_step_with_the_state_before_it(
    tiny, tmp_path, undisturbed, processes, engine
):
    """The ninth D update is the first of step 5; only rank 0's loss is bad; the next log is after step 8."""
    condition = 'and __import__("os").environ.get("RANK", "0") == "0"'
    (tmp_path / "poisoned.py").write_text(
        SITE.format(condition=condition) + "\nfrom biggan.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    engine = f"distributed.engine={engine}"
    cadence = ["training.steps=12", "training.log_every_steps=4", "checkpoint.every_steps=100"]
    arguments = ["train", *tiny, engine, *cadence]
    done = finish(arguments, None if processes == 1 else processes, program=tmp_path / "poisoned.py")
    assert done.returncode == (3 if processes == 1 else 1), done.stderr  # torchrun's own code is always 1
    (said,) = [line for line in (done.stdout + done.stderr).splitlines() if "biggan:" in line or "non-finite" in line]
    assert said.startswith(
        f"biggan: {tmp_path / 'run'}: non-finite loss or gradient in step 5, first in D.blocks.0.conv1."
    )
    traceback = "Traceback" if processes == 1 else "[rank"  # torchrun adds its own
    assert traceback not in done.stderr
    run = tmp_path / "run"
    assert [f.name for f in (run / "checkpoints").iterdir()] == ["step_00000004"]
    clean = undisturbed(engine, "training.steps=4", processes=processes)
    expected, actual = (weights(folder / "checkpoints/step_00000004") for folder in (clean, run))
    # All networks, BatchNorm statistics, u and Adam included, are those after step 4, and so is the data position.
    trained = [k for k in expected if not k.startswith(("history/", "window/", "spectrum/"))]  # these know the cadence
    moved = [k for k in trained if not torch.equal(expected[k], actual[k])]
    assert moved == []
    assert all(value.isfinite().all() for value in actual.values())
    states = [json.loads((folder / "checkpoints/step_00000004/state.json").read_text()) for folder in (clean, run)]
    assert [states[1][key] for key in ("images_seen", "cursors")] == [
        states[0][key] for key in ("images_seen", "cursors")
    ]
    assert "resuming from" in biggan(arguments, processes)  # the script is what was broken


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_stops_the_run_and_the_last_checkpoint_is_whole(tiny, tmp_path, undisturbed, processes):
    """A small tmpfs is a real full disk; the second checkpoint does not fit."""
    whole = undisturbed("model.channels=4", "training.steps=3")
    model = [tiny[2], "model.channels=4"]
    checkpoint_bytes = sum(f.stat().st_size for f in (whole / "checkpoints/step_00000003").iterdir())
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(1.8 * checkpoint_bytes)}", "tmpfs", str(small)]
    assert subprocess.run(mount, check=False).returncode == 0, "mounting a tmpfs needs root"
    try:
        run = small / "run"
        arguments = ["train", tiny[0], f"run.dir={run}", *model, "training.steps=12"]
        output = biggan([*arguments, "checkpoint.keep_last=9"], processes, expect=5 if processes == 1 else 1)
        assert output.count("the checkpoint could not be written") == 1
        assert "No space left on device" in output
        assert "[rank" not in output, "a traceback"
        saved = sorted(f.name for f in (run / "checkpoints").iterdir())
        assert saved == ["step_00000003"]
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert "step_00000003" in biggan([*arguments, "checkpoint.keep_last=9"], processes)
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_a_run_stays_within_its_limit_and_goes_on_with_it(tiny, tmp_path):
    """The limit is three and a half checkpoints, so that three stay; then a little more than two."""
    root = tmp_path / "run" / "checkpoints"
    arguments = ["train", *tiny, "checkpoint.every_steps=1"]
    biggan([*arguments, "training.steps=1"])
    size = sum(file.stat().st_size for file in root.rglob("*.*"))
    said = biggan([*arguments, "training.steps=6", f"checkpoint.max_gib={3.5 * size / 2**30}"])
    assert sorted(f.name for f in root.iterdir()) == ["step_00000001", "step_00000005", "step_00000006"]
    said += biggan([*arguments, "training.steps=8", f"checkpoint.max_gib={2.3 * size / 2**30}"])
    assert sorted(f.name for f in root.iterdir()) == ["step_00000007", "step_00000008"]
    assert "max_gib" not in said


@pytest.mark.slow
def test_an_unexpected_error_ends_the_process_and_its_readers(tiny, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(
        "import biggan.training.loop as loop\nfrom biggan.cli import main\n"
        "def train_step(*_):\n    raise RuntimeError('a bug')\n"
        "loop.train_step = train_step\nif __name__ == '__main__':\n    main()\n"
    )
    done = finish(["train", *tiny], None, program=script)  # waits for the readers too, which hold the pipes
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr


@pytest.mark.slow
def test_one_ranks_lack_of_data_stops_all_with_one_line_and_a_checkpoint(tiny, digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    arguments = ["train", *tiny[:2], f"data.path={broken}", "training.steps=4000", "checkpoint.every_steps=100000"]
    process = start([*arguments, "tracking.mlflow=true", "data.shuffle_buffer=4", "data.workers=0"], processes=2)
    wait_for_step(tmp_path / "run", 3, process)
    for name in ("train-00002.tar", "train-00005.tar", "train-00008.tar"):
        (broken / name).unlink()
    output = process.communicate(timeout=100)[0]
    assert output.count(".tar: shard is missing") == 1, output
    assert "RuntimeError" not in output
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert saved.name == f"step_{last:08d}"


@pytest.mark.slow
def test_too_many_damaged_samples_end_the_run_with_exit_code_4(tiny, digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    shard = broken / "train-00003.tar"
    with tarfile.open(shard) as tar:
        places = [member.offset_data for member in tar if member.name.endswith(".png")]
    with shard.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(bytes(8))
    text, sound = (broken / "dataset.json").read_text(), sha256_of(digits / shard.name)
    (broken / "dataset.json").write_text(text.replace(sound, sha256_of(shard)))  # else the run would not start
    output = biggan(
        ["train", *tiny[:2], f"data.path={broken}", "data.max_bad_samples=5", "training.steps=400"], expect=4
    )
    assert "unreadable samples, at most 5 allowed; first: train-00003.tar" in output
    assert "Traceback" not in output
