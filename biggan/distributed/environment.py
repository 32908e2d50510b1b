"""The environment that a launcher gives this process: its rank, the rendezvous, and its limit of open files."""

from __future__ import annotations

import os
import resource

from biggan.errors import InputError

OTHER_LAUNCHERS = (
    ("srun", "SLURM_PROCID", ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")),
    ("mpirun", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",)),
    ("mpiexec", "PMI_RANK", ("PMI_SIZE",)),
)
"""Launchers that set no rendezvous: name, variable of the rank, variables of the number of tasks (the first set)."""
FIX = "start the processes with torchrun, which sets all of its variables (docs/launch.md), or unset them for one"
BASE_OPEN_FILES = 256
"""Files of a process without peers: libraries, devices, shards, logs."""


def world_size_from_environment() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun.

    Raises InputError if another launcher started several processes that do not know of each other.
    """
    refuse_tasks_without_rendezvous()
    return _number("WORLD_SIZE", "1", at_least=1)


def refuse_tasks_without_rendezvous() -> None:
    """Raise InputError under `srun -n 2` or `mpirun -n 2` without torchrun: each task would be a run of its own."""
    if "WORLD_SIZE" in os.environ:
        return
    for launcher, rank, sizes in OTHER_LAUNCHERS:
        tasks = next((os.environ[name] for name in sizes if name in os.environ), "1")
        if rank in os.environ and tasks.isdecimal() and int(tasks) > 1:
            raise InputError(
                f"WORLD_SIZE: not set, but {launcher} started {tasks} tasks ({rank} is {os.environ[rank]}), each of "
                f"which would train alone; start one torchrun per node (launch/slurm.sbatch, docs/launch.md), or one "
                f"process: {launcher} -n 1"
            )


def global_rank() -> int:
    """Return the rank of this process among all; 0 without torchrun. Needs no process group."""
    return _rank("RANK")


def local_rank() -> int:
    """Return the rank of this process on its machine; 0 without torchrun."""
    return _rank("LOCAL_RANK")


def local_world_size() -> int:
    """Return the number of processes on this machine; 1 without torchrun."""
    return _number("LOCAL_WORLD_SIZE", "1", at_least=1)


def check_rendezvous(world_size: int) -> None:
    """Raise InputError if a variable that `world_size` processes need to meet is not set, or is not valid."""
    if world_size == 1:
        return
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise InputError(f"{name}: not set, but WORLD_SIZE is {world_size}; {FIX}")
    for name, at_least, below in (("RANK", 0, world_size), ("LOCAL_RANK", 0, world_size), ("MASTER_PORT", 1, 2**16)):
        _number(name, "0", at_least=at_least, below=below)


def allow_open_files(world_size: int, shards: int) -> None:
    """Raise this process's limit of open files as far as it may; raise InputError if that is too low.

    All processes together hold up to `shards` shards open.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    needed = open_files_needed(world_size) + shards // world_size
    if limit < needed:
        raise InputError(
            f"ulimit -n: at most {limit} open files, but a process of {world_size} may need {needed}; "
            f"raise the hard limit (LimitNOFILE= of the service, docker --ulimit nofile={needed})"
        )


def open_files_needed(world_size: int) -> int:
    """Return the number of files that a process may have open: gloo keeps a socket to every rank in each of two
    groups.
    """
    return BASE_OPEN_FILES + 2 * world_size


def _rank(name: str) -> int:
    return _number(name, "0", at_least=0, below=_number("WORLD_SIZE", "1", at_least=1))


def _number(name: str, default: str, *, at_least: int, below: int | None = None) -> int:
    """Return the number in an environment variable; raise InputError if it is none, or not in the range."""
    text = os.environ.get(name, default)
    number = int(text) if text.isdecimal() and len(text) < 10 else -1
    if number < at_least or (below is not None and number >= below):
        limits = f"{at_least} or more" if below is None else f"{at_least} to {below - 1}"
        size = os.environ.get("WORLD_SIZE", "not set")
        raise InputError(f"{name}: '{text}' is not a number of {limits} (WORLD_SIZE is {size}); {FIX}")
    return number
