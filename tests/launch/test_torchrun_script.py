"""`launch/torchrun.sh` on one node: exit codes that a scheduler can act on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import environment

SCRIPT = Path(__file__).parents[2] / "launch" / "torchrun.sh"


def start(arguments, hangup=signal.SIG_DFL, **variables) -> subprocess.Popen:
    settings = {"PYTHON": sys.executable, "NPROC_PER_NODE": "2"} | variables

    def set_signals():
        # A shell's background job ignores it, and so would a script started by one: traps cannot undo that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, hangup)

    return subprocess.Popen(
        [SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | settings,
        preexec_fn=set_signals,
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, "which config?"),
        (["x.yaml"], {"NNODES": "2"}, "RDZV_ENDPOINT is ''"),
        (["x.yaml"], {"JOIN_SECONDS": "60", "IDLE_SECONDS": "60"}, "IDLE_SECONDS is 60; it must be more"),
        (["x.yaml"], {"PYTHON": "no-such-python", "NPROC_PER_NODE": ""}, "no-such-python has no torch"),
    ],
)
def test_what_cannot_work_is_refused(arguments, variables, said):
    process = start(arguments, **variables)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert said in output


@pytest.mark.parametrize(
    ("variables", "restarts"),
    [({}, "3"), ({"COMMAND": "doctor"}, "0"), ({"COMMAND": "doctor", "MAX_RESTARTS": "1"}, "1")],
)
def test_what_the_doctor_found_is_not_looked_for_again(tmp_path, variables, restarts):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    process = start(["x.yaml"], PYTHON=str(python), **variables)
    assert f"--max-restarts {restarts} " in process.communicate(timeout=60)[0]


@pytest.mark.parametrize(("hangup", "is_handled"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_torchrun_ends_nothing_at_a_hangup_under_nohup(tmp_path, hangup, is_handled):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    output = start(["x.yaml"], hangup, PYTHON=str(python)).communicate(timeout=60)[0]
    signals = output.partition("--signals-to-handle ")[2].split()[0].split(",")
    assert {"SIGTERM", "SIGINT", "SIGQUIT"} <= {*signals}
    assert ("SIGHUP" in signals) == is_handled


def test_a_message_that_nobody_reads_does_not_leave_torchrun_running(tmp_path):
    """The script says that it gives up, and has to end torchrun after that."""
    python, ended = tmp_path / "python", tmp_path / "ended"
    os.mkfifo(tmp_path / "never")
    python.write_text(f"#!/bin/sh\ntrap 'touch {ended}; exit 1' TERM\nread -r line <>{tmp_path}/never\n")
    python.chmod(0o755)
    process = start(["x.yaml"], PYTHON=str(python), JOIN_SECONDS="0", IDLE_SECONDS="1")
    process.stdout.close()
    assert process.wait(60) == 1
    assert ended.exists()


@pytest.mark.parametrize(("when", "goes_on"), [("import torch", "echo 1"), ("distributed.run", "exec sleep 50")])
def test_a_signal_while_it_starts_asks_for_a_requeue_too(tmp_path, when, goes_on):
    """Before torchrun is there (while the script counts the GPUs), and the moment that it is."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"{when}"*) kill -TERM $PPID; {goes_on};; *) echo 1;; esac\n')
    python.chmod(0o755)
    process = start(["x.yaml"], PYTHON=str(python), NPROC_PER_NODE="")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75
    assert output == ""


@pytest.mark.slow
@pytest.mark.parametrize("slow_rank", [0, 1])
def test_bad_input_ends_with_its_own_code_and_is_not_restarted(tiny, tmp_path, slow_rank):
    """It is said once, whichever process is the first to find it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$RANK" = {slow_rank} ] && sleep 3\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    process = start([*tiny, "training.batch_size=13"], PYTHON_EXEC=str(python))
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert output.count("biggan:") == 1
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_75_and_a_checkpoint(tiny, tmp_path, number):
    process = start([*tiny, "training.steps=10000", "checkpoint.every_steps=100000"])
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"step": 3,' in metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert saved.name == f"step_{last:08d}"
    assert output.count(f"stopped by a signal after step {last}, checkpoint written") == 1
