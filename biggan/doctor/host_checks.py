"""Checks of host facts: agreement of versions, config and environment between ranks; GPUs, cores, memory, files.

Pure functions of the facts that the ranks reported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from biggan.config import Config
from biggan.distributed.environment import open_files_needed
from biggan.doctor.check import Check, Status, join_limited, name_ranks, outliers
from biggan.doctor.host import HostFacts

DOCKER_DEFAULT_BYTES = 64 * 2**20
BUSY_FRACTION = 0.1
"""Fraction of a GPU's memory. More in use than this before the run means that another process uses the GPU."""


def check_versions(facts: Mapping[int, HostFacts]) -> Check:
    """Check that Python, libraries and sources are equal on all ranks."""
    differing = differences({rank: f.versions for rank, f in facts.items()}, hosts_of(facts))
    if differing:
        return Check(
            "versions", Status.FAIL, join_limited(differing), "install the same versions and checkout on every host"
        )
    have = facts[min(facts)].versions
    return Check("versions", Status.PASS, ", ".join(f"{name} {have[name]}" for name in have if have[name] != "none"))


def check_config(facts: Mapping[int, HostFacts]) -> Check:
    """Check that the resolved config is equal on all ranks and valid for this number of processes."""
    hosts = hosts_of(facts)
    wrong = {rank: f.config_error for rank, f in facts.items() if f.config_error}
    fix = "give every process the same CONFIG and overrides"
    if wrong:
        first = min(wrong)
        same = [rank for rank, error in wrong.items() if error == wrong[first]]
        where = "" if len(same) == len(facts) else f"{name_ranks(same, hosts)}: "
        return Check("config", Status.FAIL, where + wrong[first], fix if where else "correct this key")
    tables = {rank: f.config for rank, f in facts.items() if f.config is not None}
    if not tables:
        return Check("config", Status.NOT_CHECKED, "", "give CONFIG [key=value ...]")
    if len(tables) < len(facts):
        return Check("config", Status.FAIL, f"{name_ranks(facts.keys() - tables.keys(), hosts)}: no CONFIG", fix)
    differing = differences(tables, hosts)
    if differing:
        return Check("config", Status.FAIL, join_limited(differing), fix)
    return Check("config", Status.PASS, f"{len(tables[min(tables)])} keys equal, hash {fingerprint(tables)}")


def check_environment(facts: Mapping[int, HostFacts]) -> Check:
    """Check that environment variables that can change results are equal on all ranks."""
    tables = {rank: f.environment for rank, f in facts.items()}
    differing = differences(tables, hosts_of(facts))
    if differing:
        return Check("environment", Status.FAIL, join_limited(differing), "set the variable to one value on every host")
    return Check("environment", Status.PASS, f"{len(tables[min(tables)])} variables equal, hash {fingerprint(tables)}")


def differences(tables: Mapping[int, Mapping[str, str]], hosts: Mapping[int, str]) -> list[str]:
    """Return one line per key and deviating value: the ranks that have it, and the most common value."""
    lines = []
    for key in sorted({key for table in tables.values() for key in table}):
        common, odd = outliers({rank: table.get(key) for rank, table in tables.items()})
        for value in sorted({str(v) for v in odd.values()}):
            ranks = [rank for rank, v in odd.items() if str(v) == value]
            lines.append(
                f"{key}: {name_ranks(ranks, hosts)} has {_or_nothing(odd[ranks[0]])}, others {_or_nothing(common)}"
            )
    return lines


def fingerprint(tables: Mapping[int, Mapping[str, str]]) -> str:
    """Return 12 hex digits of a SHA-256 of the lowest rank's table, to compare runs by eye."""
    text = json.dumps(tables[min(tables)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hosts_of(facts: Mapping[int, HostFacts]) -> dict[int, str]:
    """Return the host name of every rank that answered."""
    return {rank: f.host for rank, f in facts.items()}


def _or_nothing(value: str | None) -> str:
    return "nothing" if value is None else value


def check_devices(facts: Mapping[int, HostFacts]) -> Check:
    """Check that every process has a GPU and all GPUs are of one kind, or that no process has one."""
    hosts = hosts_of(facts)
    common, odd = outliers({rank: "GPU" if f.gpus else "CPU" for rank, f in facts.items()})
    if odd:
        observed = f"{name_ranks(odd, hosts)}: {odd[min(odd)]}, others {common}"
        return Check("devices", Status.FAIL, observed, "see nvidia-smi and CUDA_VISIBLE_DEVICES there")
    if common == "CPU":
        return Check("devices", Status.PASS, "no GPU: gloo on CPU")
    without = [rank for rank, f in facts.items() if f.local_rank >= f.gpus]
    if without:
        f = facts[without[0]]
        observed = f"{name_ranks(without, hosts)}: no GPU; {f.local_world_size} processes, {f.gpus} GPUs on the host"
        return Check("devices", Status.FAIL, observed, f"--nproc_per_node {f.gpus}, or CUDA_VISIBLE_DEVICES")
    return _check_gpus(facts)


def _check_gpus(facts: Mapping[int, HostFacts]) -> Check:
    hosts = hosts_of(facts)
    gpus = {rank: f.gpu for rank, f in facts.items() if f.gpu is not None}
    common, odd = outliers({rank: f"{g.name}, {g.total_bytes / 2**30:.0f} GiB" for rank, g in gpus.items()})
    if odd:
        observed = f"{name_ranks(odd, hosts)}: {odd[min(odd)]}, others {common}"
        return Check(
            "devices",
            Status.WARN,
            observed,
            "use equal GPUs: the slowest one sets the speed, the smallest one the batch",
        )
    busy = [rank for rank, g in gpus.items() if g.free_bytes < (1 - BUSY_FRACTION) * g.total_bytes]
    if busy:
        free = min(gpus[rank].free_bytes for rank in busy) / 2**30
        observed = f"{name_ranks(busy, hosts)}: only {free:.1f} GiB of GPU memory free"
        return Check("devices", Status.WARN, observed, "another process uses it: find it with nvidia-smi")
    idle = {f.host: f.gpus - f.local_world_size for f in facts.values() if f.gpus > f.local_world_size}
    if idle:
        observed = join_limited(f"{host}: {count} GPUs without a process" for host, count in sorted(idle.items()))
        return Check("devices", Status.WARN, observed, "raise --nproc_per_node")
    return Check("devices", Status.PASS, f"{len(gpus)} x {common}, a process each")


def check_cores(facts: Mapping[int, HostFacts], config: Config | None) -> Check:
    """Check that a host has a core for every thread of its processes.

    With GPUs: a core for every process and for every reader.
    """
    readers = config.data.workers if config is not None else 0
    need = {rank: f.local_world_size * max(f.threads, 1 + readers if f.gpus else 1) for rank, f in facts.items()}
    crowded = [rank for rank, f in facts.items() if need[rank] > f.cores]
    f = facts[min(crowded, default=min(facts))]
    observed = (
        f"{f.host}: {f.local_world_size} processes of {f.threads} threads and {readers} readers on {f.cores} cores"
    )
    if not crowded:
        return Check("cores", Status.PASS, observed)
    advice = max(1, f.cores // f.local_world_size)
    fix = f"OMP_NUM_THREADS={advice}, fewer data.workers, or more cores (sbatch --exclusive, a larger CPU request)"
    return Check("cores", Status.WARN, observed, fix)


def check_shared_memory(facts: Mapping[int, HostFacts]) -> Check:
    """Check the room in /dev/shm, where NCCL shares buffers between the GPUs of a host. The readers use pipes."""
    sharing = [f for _, f in sorted(facts.items()) if f.gpus and f.local_world_size > 1]
    if not sharing:
        return Check("shared memory", Status.PASS, "not needed: no host has several processes on GPUs")
    f = min(sharing, key=lambda f: f.shared_memory_free_bytes)
    observed = f"{f.host}: {f.shared_memory_free_bytes / 2**20:,.0f} MiB free in /dev/shm"
    if f.shared_memory_free_bytes > DOCKER_DEFAULT_BYTES:
        return Check("shared memory", Status.PASS, observed)
    fix = "a larger /dev/shm for NCCL (docker --shm-size, a memory-backed emptyDir)"
    return Check("shared memory", Status.WARN, observed + ", no more than a container's default", fix)


def check_open_files(facts: Mapping[int, HostFacts], world_size: int) -> Check:
    """Check that the limit of open files allows a socket to every rank."""
    need = open_files_needed(world_size)
    least = min(sorted(facts), key=lambda rank: facts[rank].open_files_limit)
    f = facts[least]
    observed = f"{f.host}: limit {f.open_files_limit:,}, {world_size} process(es) need about {need:,}"
    if f.open_files_limit < need:
        return Check(
            "open files", Status.FAIL, observed, "raise the hard limit (LimitNOFILE= of the service, or --ulimit)"
        )
    return Check("open files", Status.PASS, observed)
