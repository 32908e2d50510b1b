"""Processes that die, hang or fail: the others end soon, in order, and say which it was."""

import os
import signal
import socket
import subprocess
import time

import pytest
import torch
import torch.distributed as dist
from runs import biggan, finish, start, wait_for, weights

from biggan.distributed import peer_failure
from biggan.distributed.process import Process
from biggan.errors import LostProcesses

TIMEOUT_SECONDS = 8
SLACK_SECONDS = 10
"""Beyond what is promised: a step may be under way, and other work has these cores too."""
RANK_1_FAILS = """
import os
import biggan.training.loop as loop
from biggan.cli import main
plain = loop.train_step

def train_step(gan, step, *others):
    if step == 4 and os.environ["RANK"] == "1":
        raise ValueError("a bug")
    return plain(gan, step, *others)

loop.train_step = train_step
if __name__ == "__main__":
    main()
"""
RANK_1_HAS_ANOTHER_CONFIG = """
import os, sys
from biggan.cli import main
if os.environ["RANK"] == "1":
    sys.argv.append("optimizer.g_lr=1e-3")
if __name__ == "__main__":
    main()
"""

RANK_1_IS_KILLED_AT_THE_END = """
import time
import os, signal
from biggan.cli import main
from biggan.distributed.process import Process

def barrier(process):
    if process.rank == 1:
        time.sleep(1)  # rank 0 has read all that was sent before: a kill resets the connection
        os.kill(os.getpid(), signal.SIGKILL)
    process.any(False)

Process.barrier = barrier
if __name__ == "__main__":
    main()
"""


def wait_for_checkpoint(run, step, process):
    wait_for((run / f"checkpoints/step_{step:08d}").exists, process)


def worker(process, rank):
    """Return the process id of a worker of torchrun's; warm_server.py names it after its rank."""
    children = ["pgrep", "--exact", "--parent", str(process.pid), f"rank {rank}"]
    return int(subprocess.run(children, capture_output=True, text=True, check=True).stdout)


def run_script(text, tmp_path, arguments):
    script = tmp_path / "script.py"
    script.write_text(text)
    return finish(["train", *arguments], 2, program=script)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_a_hung_process_and_the_collective_it_is_missed_in_are_named_after_the_configured_time(tiny, tmp_path, engine):
    timeout = f"distributed.timeout_seconds={TIMEOUT_SECONDS}"
    arguments = ["train", *tiny, "training.steps=100000", "checkpoint.every_steps=2", timeout]
    process = start([*arguments, f"distributed.engine={engine}"], processes=2)
    run = tmp_path / "run"
    wait_for_checkpoint(run, 2, process)
    hung = worker(process, 1)
    os.kill(hung, signal.SIGSTOP)
    hung_since = time.monotonic()
    wait_for((run / "lost/rank_0.json").exists, process)
    assert time.monotonic() < hung_since + TIMEOUT_SECONDS + SLACK_SECONDS
    process.read_until("biggan: ", SLACK_SECONDS + 10)
    os.kill(hung, signal.SIGKILL)  # torchrun's patience with it is half a minute
    output = process.communicate(timeout=10 + SLACK_SECONDS)[0]
    said = [line for line in output.splitlines() if line.startswith("biggan:")]
    assert len(said) == 1, output
    assert "no answer from rank 1 (" in said[0]
    assert "waited in gloo:" in said[0]
    assert f"{TIMEOUT_SECONDS}000ms" in said[0], "gloo's own time-out, not the longer one of NCCL"
    assert "[rank0]" not in output, "a traceback"


@pytest.mark.long
def test_torchrun_brings_a_killed_worker_back_and_the_end_is_the_undisturbed_ones(tiny, tmp_path, undisturbed):
    arguments = ["training.steps=30", "checkpoint.every_steps=4"]
    process = start(["train", *tiny, *arguments], 2, max_restarts=3)
    for step, rank in ((4, 1), (12, 0)):
        wait_for_checkpoint(tmp_path / "run", step, process)
        os.kill(worker(process, rank), signal.SIGKILL)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert output.count("resuming from") == 2
    whole = undisturbed(*arguments, processes=2)
    a, b = (weights(run / "checkpoints/step_00000030") for run in (whole, tmp_path / "run"))
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.slow
def test_one_ranks_error_is_its_traceback_and_one_line_of_the_others(tiny, tmp_path):
    done = run_script(RANK_1_FAILS, tmp_path, tiny)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("biggan:")]
    assert len(said) == 1, done.stderr
    assert "failed: ValueError: a bug" in said[0]
    assert said[0].startswith("biggan: rank 1 (")
    assert "[rank0]" not in done.stderr
    assert done.stderr.count("[rank1]: ValueError: a bug") == 1


@pytest.mark.slow
def test_a_run_whose_first_attempt_lost_a_process_before_it_began_can_begin(tiny, tmp_path):
    """The survivors have left word in the run folder, which is no run's yet."""
    (tmp_path / "run/lost").mkdir(parents=True)
    (tmp_path / "run/lost/rank_0.json").write_text("{}")
    biggan(["train", *tiny, "training.steps=1"])


def test_a_process_that_is_killed_while_all_leave_does_not_hide_why_they_do(tiny, tmp_path):
    """Without torchrun, which would end rank 0 for rank 1's death."""
    script = tmp_path / "script.py"
    script.write_text(RANK_1_IS_KILLED_AT_THE_END)
    with socket.create_server(("127.0.0.1", 0)) as free:
        together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    arguments = ["train", *tiny, "data.path=nowhere"]
    first, second = (start(arguments, None, program=script, RANK=rank, **together) for rank in "01")
    said = first.communicate(timeout=100)[0]
    second.communicate(timeout=100)
    assert (first.returncode, second.returncode) == (2, -signal.SIGKILL), said
    assert "biggan: data.path: nowhere" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_master_that_is_not_there_is_one_line_of_each_machine(tiny, local_rank):
    nobody = {"RANK": f"{4 + local_rank}", "WORLD_SIZE": "6", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    arguments = ["train", *tiny, "distributed.timeout_seconds=2"]
    done = finish(arguments, TORCH_CPP_LOG_LEVEL="FATAL", LOCAL_RANK=f"{local_rank}", **nobody)
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("biggan: cannot meet the other processes (") == 1 - local_rank


class Unreachable:
    """A store whose machine is gone, so that nobody can be asked."""

    def _refuse(self, *_):
        raise dist.DistNetworkError("Broken pipe")

    set = check = get = _refuse


def test_when_the_store_is_gone_one_of_each_machine_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_failure, "_report_store", lambda process: process.store)
    said = {}
    for rank in range(4):
        hosts = ("a", "a", "b", "b")
        process = Process(rank, 4, torch.device("cpu"), group=None, store=Unreachable(), hosts=hosts)
        missing = pytest.raises(LostProcesses, match="keeps the rendezvous store")
        with missing as caught, peer_failure.naming_lost_processes(process, tmp_path):
            raise dist.DistBackendError("Connection closed by peer")
        said[rank] = caught.value.reported
    assert said == {0: False, 1: True, 2: False, 3: True}


@pytest.mark.slow
def test_processes_started_with_different_configs_are_refused(tiny, tmp_path):
    done = run_script(RANK_1_HAS_ANOTHER_CONFIG, tmp_path, tiny)
    assert "biggan: optimizer.g_lr: 0.0002 on rank 0 (" in done.stderr
    assert "0.001 on rank 1 (" in done.stderr
    assert "[rank" not in done.stderr
    assert not (tmp_path / "run").exists()
