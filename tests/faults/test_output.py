"""Output that goes nowhere: a dead pipe, a full disk under the log, a closed terminal. A run does what it would do."""

import os
import pty
import signal
import tty
from pathlib import Path

import pytest
from runs import MOST_SECONDS, finish, start, wait_for

from biggan.cli.output import LossyFile

DIGITS = Path(__file__).parents[2] / "configs" / "digits.yaml"
ON_FILE = """
import os, sys
for number, name in enumerate(sys.argv.pop(1).split(","), 1):
    if name == "closed":
        os.close(number)
        setattr(sys, ("stdout", "stderr")[number - 1], None)
        setattr(sys, ("__stdout__", "__stderr__")[number - 1], None)
    elif name == "dead pipe":
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, number)
    elif name:
        os.dup2(os.open(name, os.O_RDWR | {flags}), number)
from biggan.cli import main
if __name__ == "__main__":
    main()
"""
"""`biggan`, but for standard output and error, which its first argument names."""


TRACKED = """
import biggan.startup.open_log as open_log
from biggan.cli import main

class Tracker:
    def __init__(self, run_dir, *_):
        self.ended = run_dir / "ended"

    def close(self, status):
        self.ended.write_text(status)

    def __getattr__(self, _name):
        return lambda *_: None

open_log.Tracker = Tracker
if __name__ == "__main__":
    main()
"""
"""`biggan`, but for MLflow: how its run ends is in the run folder."""


@pytest.fixture
def tracked(tmp_path):
    """A program whose MLflow run's last status is in run/ended."""
    program = tmp_path / "tracked.py"
    program.write_text(TRACKED)
    return program


@pytest.fixture
def on_file(tmp_path):
    """A program that takes two files for its output, `OUT,ERR`, before its arguments."""
    program = tmp_path / "on_file.py"
    program.write_text(ON_FILE.format(flags="os.O_NOCTTY"))
    return program


def steps_logged(run):
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [None, 2])
def test_a_dead_pipe_does_not_end_a_run(tiny, tmp_path, tracked, processes):
    process = start(["train", *tiny, "tracking.mlflow=true"], processes, program=tracked)
    process.read_until("training ", MOST_SECONDS)
    process.stdout.close()
    assert process.wait(MOST_SECONDS) == 0
    assert steps_logged(tmp_path / "run") == 6
    assert (tmp_path / "run/checkpoints/step_00000006").is_dir()
    assert (tmp_path / "run/ended").read_text() == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("log", ["/dev/full,/dev/full", "closed,closed"])
def test_a_log_that_cannot_be_written_does_not_end_a_run(tiny, tmp_path, on_file, log):
    assert finish([log, "train", *tiny], None, program=on_file).returncode == 0
    assert steps_logged(tmp_path / "run") == 6


@pytest.mark.slow
def test_a_signal_still_asks_for_a_requeue(tiny, tmp_path, tracked):
    arguments = ["train", *tiny, "training.steps=10000", "tracking.mlflow=true"]
    process = start(arguments, None, program=tracked)
    process.read_until("step 2/", MOST_SECONDS)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(MOST_SECONDS) == 75
    assert (tmp_path / "run/ended").read_text() == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("is_controlling", [True, False])
def test_a_closed_terminal(tiny, tmp_path, is_controlling):
    """The terminal that controls a run hangs it up, which stops it; another one is only gone, as after `disown`."""
    program = tmp_path / "on_terminal.py"
    program.write_text(ON_FILE.format(flags="0" if is_controlling else "os.O_NOCTTY"))
    master, slave = pty.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    run = tmp_path / "run"
    steps = "training.steps=10000" if is_controlling else "training.steps=9"
    process = start([f"{name},{name}", "train", *tiny, steps, "checkpoint.every_steps=100000"], None, program=program)
    os.close(slave)
    wait_for(lambda: steps_logged(run) >= 3, process)
    os.close(master)
    assert process.wait(MOST_SECONDS) == (75 if is_controlling else 0)
    (saved,) = (run / "checkpoints").iterdir()
    assert saved.name == f"step_{steps_logged(run):08d}"


@pytest.mark.slow
def test_a_hangup_is_ignored_under_nohup(tiny, tmp_path):
    program = tmp_path / "nohup.py"
    program.write_text(
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from biggan.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    process = start(["train", *tiny, "training.steps=9"], None, program=program)
    process.read_until("step 2/", MOST_SECONDS)
    os.killpg(process.pid, signal.SIGHUP)
    assert "done: step 9" in process.communicate(timeout=MOST_SECONDS)[0]
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("log", ["/dev/full,/dev/full", "dead pipe,dead pipe", "closed,closed"])
def test_bad_input_keeps_its_exit_code(tmp_path, on_file, log):
    assert finish([log, "train", tmp_path / "missing.yaml"], None, program=on_file).returncode == 2


@pytest.mark.slow
def test_a_table_that_is_lost_is_an_error_unless_nobody_reads_it(on_file):
    done = finish(["/dev/full,", "parameters", DIGITS], None, program=on_file)
    assert done.returncode == 2
    assert done.stderr.startswith("biggan: standard output: ")
    assert done.stderr.count("\n") == 1
    done = finish(["dead pipe,", "parameters", DIGITS], None, program=on_file)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_does_not_block_is_waited_for():
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = b"x" * (1 << 20)
    child = os.fork()
    if child == 0:
        os.close(read)
        with LossyFile(write, "w") as file:
            while text:
                text = text[file.write(text) :]
        os._exit(0)
    os.close(write)
    with open(read, "rb") as received:
        assert received.read() == text
    os.waitpid(child, 0)
