"""A signal at any moment of a start ends the command with its documented exit code, one line and no traceback."""

import os
import signal
import subprocess
import sys

import pytest
from runs import environment, finish, start, wait_for

from biggan.stop_signals import STOP_SIGNALS
from biggan.training.stop import stop_on_signals

WHILE_IMPORTING = """
import os, signal, sys
def kill(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), {number})
for number in ({number}, signal.SIGINT):
    signal.signal(number, {disposition})
sys.addaudithook(kill)
sys.argv = ["biggan", *{arguments!r}]
from biggan.cli import main
main()
"""
WHILE_PREPARING = """
import os, signal
import biggan.startup.start as start
from biggan.cli import main
plain = start.{stage}
def stage(*arguments):
    result = plain(*arguments)
    for number in {numbers}:
        os.kill(os.getpid(), number)
    return result
start.{stage} = stage
if __name__ == "__main__":
    main()
"""


def ends_in_order(code: int, output: str, number: int) -> None:
    assert code == 75, output
    assert output.count("\n") == output.count("biggan: ") == 1, output
    assert number.name in output


@pytest.mark.parametrize(
    ("module", "number"),
    [("typer", signal.SIGINT), ("biggan.distributed", signal.SIGHUP), ("torch", signal.SIGTERM),
     ("numpy", signal.SIGINT), ("torch.distributed", signal.SIGTERM)],
)  # fmt: skip
def test_a_signal_while_importing(tiny, tmp_path, module, number):
    code = WHILE_IMPORTING.format(
        module=module, number=int(number), disposition="signal.SIG_DFL", arguments=["train", *tiny]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    ends_in_order(done.returncode, done.stdout + done.stderr, number)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["checked_config", "own_folder", "initial_state"])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_preparing_leaves_the_run_folder_free(tiny, tmp_path, stage, number):
    script = tmp_path / "script.py"
    script.write_text(WHILE_PREPARING.format(stage=stage, numbers=[int(number)]))
    done = finish(["train", *tiny], None, program=script)
    ends_in_order(done.returncode, done.stdout + done.stderr, number)
    assert not list(tmp_path.rglob(".owner.lock"))
    assert (tmp_path / "run").exists() == (stage == "initial_state")


def test_a_second_signal_ends_it_at_once(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WHILE_PREPARING.format(stage="checked_dataset", numbers=[15, 15, 2]))
    done = finish(["train", *tiny], None, program=script)
    ends_in_order(done.returncode, done.stdout + done.stderr, signal.SIGTERM)


@pytest.mark.slow
def test_one_process_of_a_machine_says_so(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WHILE_PREPARING.format(stage="initial_state", numbers=[15]))
    done = finish(["train", *tiny], 2, program=script)
    assert (done.stdout + done.stderr).count("biggan: ") == 1
    assert "SIGTERM" in done.stdout + done.stderr


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_training_asks_for_a_stop(number, capfd):
    with stop_on_signals(aloud=True) as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert stop.requested
    assert capfd.readouterr().err.count("biggan: ") == (number == signal.SIGINT)


def test_a_hang_up_that_is_ignored_from_the_start_stays_ignored():
    """As under nohup."""
    code = WHILE_IMPORTING.format(
        module="typer", number=int(signal.SIGHUP), disposition="signal.SIG_IGN", arguments=["report", "no/run"]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2
    assert "no/run" in done.stderr


@pytest.mark.slow
def test_a_signal_to_a_pack_and_its_workers(tmp_path):
    dest = tmp_path / "packed"
    shards = ["--resolution", "256", "--shards", "600", "--workers", "2"]
    process = start(["pack", "digits", dest, *shards])
    wait_for(lambda: bool(list(dest.glob("*.tar"))), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 75, output
    assert "Traceback" not in output
    assert "SIGINT" in output
    assert not list(dest.glob("*.partial"))
    assert not (dest / "dataset.json").exists()
