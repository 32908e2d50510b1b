"""A folder has one owner: a second run or pack is refused, with the owner's name, before it touches anything."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from data.packs import pictures, plan

from biggan.config.preset import resolve
from biggan.data.pack import start_packing
from biggan.distributed.environment import world_size_from_environment
from biggan.errors import InputError
from biggan.folder_lock import LOCK, FolderLock


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("biggan.folder_lock.WAIT_SECONDS", 0.1)


@pytest.fixture
def owner(tmp_path):
    """Own a folder in another process: `owner(folder)` returns its id. It is killed at the end."""
    children = []

    def own(folder):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with FolderLock(folder, "run.dir"):
                os.write(writing, b"x")
                time.sleep(300)
            os._exit(0)
        children.append(child)
        assert os.read(reading, 1) == b"x"
        return child

    yield own
    for child in children:
        kill(child)


def kill(child):
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def names(folder):
    return sorted(f.name for f in folder.rglob("*"))


def test_an_owned_folder_is_refused_with_host_and_process(tmp_path, owner):
    child = owner(tmp_path / "a")
    with pytest.raises(InputError, match=rf"^run\.dir: .*\b{child} on {socket.gethostname()}\b") as refused:
        FolderLock(tmp_path / "a", "run.dir").acquire()
    assert "\n" not in str(refused.value)
    kill(child)
    with FolderLock(tmp_path / "a", "run.dir"):  # the kernel has released it
        assert str(os.getpid()) in (tmp_path / "a" / LOCK).read_text()
    assert names(tmp_path) == ["a"]


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with FolderLock(tmp_path / "a" / "b", "run.dir"):
        pass
    assert names(tmp_path) == ["a"]
    with FolderLock(tmp_path / "a" / "b", "run.dir"):
        (tmp_path / "a/b/c").touch()
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_forked_reader_does_not_own_the_folder_of_its_parent(tmp_path):
    """It may outlive a killed parent for a moment; the run must be able to resume at once."""
    lock = FolderLock(tmp_path, "run.dir").acquire()
    child = os.fork()
    if child == 0:
        time.sleep(300)
        os._exit(0)
    try:
        os.close(lock._descriptor)  # as the kernel does for a killed parent
        FolderLock(tmp_path, "run.dir").acquire().release()
    finally:
        kill(child)


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("biggan.folder_lock.fcntl.flock", unsupported)
    with FolderLock(tmp_path, "run.dir") as lock:
        assert "run.dir: " in lock.warning


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match=r"^run\.dir: .*Not a directory|File exists"):
        FolderLock(tmp_path / "a", "run.dir").acquire()


def test_a_second_train_is_refused_and_touches_nothing(tiny, tmp_path, owner, run_command):
    run = tmp_path / "run"
    (run / "checkpoints/.step_00000003.partial").mkdir(parents=True)
    (run / "config.yaml").write_text(resolve(Path(tiny[0]), tiny[1:]).to_yaml())
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    child = owner(run)
    before = {f.name: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    code, output = run_command("train", *tiny)
    assert code == 2, output
    assert f"{child} on {socket.gethostname()}" in output
    assert output.count("biggan: run.dir: ") == 1
    assert {f.name: f.read_bytes() for f in run.rglob("*") if f.is_file()} == before
    assert (run / "checkpoints/.step_00000003.partial").is_dir()


def test_a_second_pack_is_refused_and_touches_nothing(tmp_path, owner):
    pictures(tmp_path / "images")
    dest = tmp_path / "data"
    child = owner(dest)
    with pytest.raises(InputError, match=rf"^DEST: .*\b{child} on "):
        start_packing(plan(tmp_path / "images", shards=2), dest)
    assert names(dest) == [LOCK]
    kill(child)
    start_packing(plan(tmp_path / "images", shards=2), dest).run(1, lambda _: None)
    assert names(dest) == ["dataset.json", "train-00000.tar", "train-00001.tar"]


@pytest.mark.parametrize(
    ("variables", "expect"),
    [
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, ("srun", "2", "torchrun", "launch/slurm.sbatch")),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, ("srun", "4", "torchrun")),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}, ("mpirun", "3", "torchrun")),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, ("mpiexec", "2", "torchrun")),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, ()),  # srun -n 1 in a larger job
        ({"SLURM_NTASKS": "2"}, ()),  # the shell of salloc
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "WORLD_SIZE": "1"}, ()),  # torchrun under srun
    ],
)
def test_tasks_without_a_rendezvous_are_refused_with_the_way_that_works(monkeypatch, variables, expect):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "PMI_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not expect:
        assert world_size_from_environment() == 1
        return
    with pytest.raises(InputError) as refused:
        world_size_from_environment()
    assert "\n" not in str(refused.value)
    for part in expect:
        assert part in str(refused.value)
