"""`biggan doctor` as a command, alone and under torchrun, on healthy ranks and with real faults."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from runs import biggan, command, environment, finish, torchrun

HERE = f"(host {os.uname().nodename})"
STOPS_IN_A_COLLECTIVE = """
import os, signal, subprocess, sys
import biggan.doctor.network as network
from biggan.cli import main

original = network.check_results

def check_results(*arguments):
    if os.environ["RANK"] == "1":
        # It continues once the JSON is written: torchrun would wait 30 s for a stopped process to end.
        me, verdict = os.getpid(), sys.argv[sys.argv.index("--json") + 1]
        wait = f"while kill -0 {me} && [ ! -e {verdict} ]; do sleep 0.1; done; kill -CONT {me}"
        subprocess.Popen(["sh", "-c", wait])
        os.kill(me, signal.SIGSTOP)
    return original(*arguments)

network.check_results = check_results
if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        sys.argv.append("model.nonsense=1")
    main()
"""
RANK_1_NEVER_STARTS = """
import os, signal
from biggan.cli import main
if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        signal.pause()
    main()
"""


def run_ranks(tmp_path, arguments, expect, program=None):
    """Run `biggan doctor`, or a program that breaks it, on two processes; return (output, JSON)."""
    script = "biggan"
    if program is not None:
        script = tmp_path / "program.py"
        script.write_text(program)
    done = finish(["doctor", *arguments, "--json", tmp_path / "doctor.json"], 2, program=script)
    return examined(done, tmp_path, expect)


def run_shells(tmp_path, fault, arguments, expect):
    """Run `biggan doctor` on two processes; rank 1 runs the shell code `fault` first. Return (output, JSON)."""
    script = tmp_path / "rank.sh"
    script.write_text(f'if [ "$RANK" = 1 ]; then\n{fault}\nfi\nexec {sys.executable} -m biggan doctor "$@"\n')
    command = [*torchrun(2), "--no-python", "sh", str(script), *arguments, "--json", str(tmp_path / "doctor.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300, check=False)
    return examined(done, tmp_path, expect)


def examined(done, tmp_path, expect):
    """Check how the doctor ended; return (output, JSON)."""
    assert done.returncode == (1 if expect else 0), done.stdout + done.stderr  # torchrun itself always exits with 1
    if expect:
        assert "exitcode  : 2" in done.stderr
    assert "biggan/" not in done.stderr, "traceback of biggan code"
    return done.stdout, json.loads((tmp_path / "doctor.json").read_text())


def failed(found):
    return {check["name"]: check["observed"] for check in found["checks"] if check["status"] == "fail"}


def statuses(found):
    return {check["name"]: check["status"] for check in found["checks"]}


def test_doctor_without_arguments_checks_this_machine(tmp_path):
    output = biggan(["doctor", "--json", str(tmp_path / "doctor.json")])
    assert "nothing failed" in output
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert (found["world_size"], found["collectives"], found["hosts"]) == (1, [], [os.uname().nodename])
    rows = {check["name"]: check for check in found["checks"]}
    assert rows["versions"]["status"] == "pass"
    for name, flag in (("config", "CONFIG"), ("dataset", "--data"), ("disk room", "--run-dir"), ("checksums", "--ch")):
        assert rows[name]["status"] == "not checked"
        assert flag in rows[name]["fix"]


def test_bad_config_ends_with_exit_code_2(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGGAN_EXIT_CODES", str(tmp_path / "exit_codes"))  # as launch/torchrun.sh does
    output = biggan(["doctor", *tiny, "training.stepz=1"], expect=2)
    assert (tmp_path / "exit_codes").read_text() == "2\n"
    (line,) = output.splitlines()
    assert line.startswith("biggan: training.stepz: ")
    assert line.endswith("training.steps")


def test_unreachable_store_is_reported_in_one_line():
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    program = command(["doctor", "--timeout-seconds", "4"])  # it sets torch's log level, which is read at import
    done = subprocess.run(program, capture_output=True, text=True, env=environment() | ranks, timeout=100, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"biggan: rank 1 {HERE}: ")
    assert "store at 127.0.0.1:1 " in line


@pytest.mark.slow
def test_two_healthy_processes_pass_and_leave_no_files(tiny, tmp_path):
    (tmp_path / "shared").mkdir()
    run = tmp_path / "shared" / "run"
    output, found = run_ranks(tmp_path, [tiny[0], f"run.dir={run}", tiny[2], "--checksums"], expect=0)
    assert "nothing failed" in output
    seen = statuses(found)
    assert {name for name, status in seen.items() if status == "not checked"} == {"clocks", "links"}  # one host
    assert not failed(found)
    assert list((tmp_path / "shared").iterdir()) == []
    assert found["backend"] == "gloo"
    assert {c["operation"] for c in found["collectives"]} == {"all_reduce", "all_gather"}
    assert {c["bytes"] for c in found["collectives"]} >= {4, 64 * 2**20}
    assert all(c["seconds"] > 0 for c in found["collectives"])


@pytest.mark.slow
def test_checksums_detect_changed_bytes_of_equal_length(digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    with (broken / "train-00003.tar").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 8)
    output = biggan(["doctor", "--data", str(broken), "--checksums", "--json", str(tmp_path / "doctor.json")], expect=2)
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert statuses(found)["shards"] == "pass"  # sizes alone do not show the change
    assert failed(found).keys() == {"checksums"}
    assert f"failed: checksums: rank 0 {HERE}: {broken}/train-00003.tar: " in output


@pytest.mark.slow
def test_unreadable_shard_is_named(digits, tmp_path):
    broken = shutil.copytree(digits, tmp_path / "broken")
    (broken / "train-00003.tar").chmod(0)
    # Root can read every file. Drop the capabilities that allow this; other users do not have them.
    drop_capabilities = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    doctor = [*drop_capabilities, sys.executable, "-m", "biggan", "doctor", "--data", str(broken)]
    done = subprocess.run(doctor, capture_output=True, text=True, env=environment(), timeout=100, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    (failure,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert failure.startswith(f"failed: shards: rank 0 {HERE}: {broken}/train-00003.tar: ")
    assert "(Permission denied)" in failure


@pytest.fixture
def other_checkout(tmp_path):
    """A folder with other versions of webdataset and biggan."""
    folder = tmp_path / "other_checkout"
    for name in ("webdataset", "biggan"):
        (source,) = find_spec(name).submodule_search_locations
        package = shutil.copytree(source, folder / name)
        with (package / "__init__.py").open("a") as file:
            file.write("\n__version__ = '0.0.7'\n")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of 100 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    assert subprocess.run(mount, check=False).returncode == 0, "mounting a tmpfs needs root"
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_all_faults_of_one_rank_are_named_in_one_table(tiny, digits, tmp_path, other_checkout, small_disk):
    """Rank 1 has other arguments, variables and packages, and other file systems mounted at the same paths."""
    lacking = shutil.copytree(digits, tmp_path / "lacking")
    (lacking / "train-00007.tar").unlink()
    fault = f"""
    set -- "$@" optimizer.g_lr=1e-3
    cd {other_checkout}
    export PYTHONPATH={other_checkout}:$PYTHONPATH OMP_NUM_THREADS=2
    mounts='mount --bind {lacking} {digits} && mount -t tmpfs tmpfs {small_disk}'
    exec unshare --mount sh -c "$mounts"' && exec "$@"' sh {sys.executable} -m biggan doctor "$@"
    """
    _, found = run_shells(tmp_path, fault, [tiny[0], f"run.dir={small_disk / 'run'}", tiny[2]], expect=2)
    seen = failed(found)
    assert seen.keys() == {"versions", "config", "environment", "shards", "disk room", "shared folder"}
    assert f"webdataset: rank 1 {HERE} has 0.0.7" in seen["versions"]
    assert f"biggan source: rank 1 {HERE} has" in seen["versions"]
    assert seen["config"] == f"optimizer.g_lr: rank 1 {HERE} has 0.001, others 0.0002"
    assert seen["environment"] == f"OMP_NUM_THREADS: rank 1 {HERE} has 2, others 1"
    assert seen["shards"].startswith(f"rank 1 {HERE}: {digits}/train-00007.tar ")
    assert seen["disk room"].startswith(f"{small_disk}/run: 0.00 GiB free")
    assert seen["shared folder"].startswith(f"rank 1 {HERE} ")
    assert seen["shared folder"].endswith(f" {small_disk}")
    assert statuses(found)["all-reduce"] == "pass"


@pytest.mark.slow
def test_rank_that_never_starts_is_named(tmp_path):
    output, found = run_ranks(tmp_path, ["--timeout-seconds", "8"], 2, RANK_1_NEVER_STARTS)
    assert "Traceback" not in output
    assert f"rank 1 {HERE} while exchanging host facts" in failed(found)["rendezvous"]
    assert statuses(found)["all-reduce"] == "not checked"


@pytest.mark.long
def test_rank_that_stops_in_a_collective_is_named(tiny, tmp_path):
    """Rank 1 also has an invalid config. That must not keep both ranks from reaching the collectives."""
    _, found = run_ranks(tmp_path, [*tiny, "--checksums", "--timeout-seconds", "16"], 2, STOPS_IN_A_COLLECTIVE)
    assert f"rank 1 {HERE}: model.nonsense: " in failed(found)["config"]
    assert f"rank 1 {HERE} while measuring collectives" in failed(found)["rendezvous"]
