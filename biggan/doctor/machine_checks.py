"""Is each machine fit: GPUs or cores, shared memory, open files? Pure functions of what its ranks said."""

from __future__ import annotations

from collections.abc import Mapping

from biggan.config import Config
from biggan.doctor.check import Check, Status, name_ranks, odd_ones, some
from biggan.doctor.host import HostFacts
from biggan.doctor.rank_agreement import hosts_of

DOCKER_DEFAULT_BYTES = 64 * 2**20
BUSY_FRACTION = 0.1
"""Of a GPU's memory: more than this in use before the run belongs to somebody else."""


def check_devices(facts: Mapping[int, HostFacts]) -> Check:
    """A GPU for every process, equal ones; or none anywhere."""
    hosts = hosts_of(facts)
    common, odd = odd_ones({rank: "GPU" if f.gpus else "CPU" for rank, f in facts.items()})
    if odd:
        seen = f"{name_ranks(odd, hosts)}: {odd[min(odd)]}, others {common}"
        return Check("devices", Status.FAIL, seen, "see nvidia-smi and CUDA_VISIBLE_DEVICES there")
    if common == "CPU":
        return Check("devices", Status.PASS, "no GPU: gloo on CPU")
    without = [rank for rank, f in facts.items() if f.local_rank >= f.gpus]
    if without:
        f = facts[without[0]]
        seen = f"{name_ranks(without, hosts)}: no GPU; {f.local_world_size} processes, {f.gpus} GPUs on the host"
        return Check("devices", Status.FAIL, seen, f"--nproc_per_node {f.gpus}, or CUDA_VISIBLE_DEVICES")
    return _check_gpus(facts)


def _check_gpus(facts: Mapping[int, HostFacts]) -> Check:
    hosts = hosts_of(facts)
    gpus = {rank: f.gpu for rank, f in facts.items() if f.gpu is not None}
    common, odd = odd_ones({rank: f"{g.name}, {g.total_bytes / 2**30:.0f} GiB" for rank, g in gpus.items()})
    if odd:
        seen = f"{name_ranks(odd, hosts)}: {odd[min(odd)]}, others {common}"
        return Check("devices", Status.WARN, seen, "the slowest and smallest GPU sets pace and batch")
    busy = [rank for rank, g in gpus.items() if g.free_bytes < (1 - BUSY_FRACTION) * g.total_bytes]
    if busy:
        free = min(gpus[rank].free_bytes for rank in busy) / 2**30
        seen = f"{name_ranks(busy, hosts)}: only {free:.1f} GiB of GPU memory free"
        return Check("devices", Status.WARN, seen, "another process holds it: nvidia-smi names it")
    idle = {f.host: f.gpus - f.local_world_size for f in facts.values() if f.gpus > f.local_world_size}
    if idle:
        seen = some(f"{host}: {count} GPUs without a process" for host, count in sorted(idle.items()))
        return Check("devices", Status.WARN, seen, "raise --nproc_per_node")
    return Check("devices", Status.PASS, f"{len(gpus)} x {common}, a process each")


def check_cores(facts: Mapping[int, HostFacts], config: Config | None) -> Check:
    """A core for every process's threads, and one for every reader and for what feeds a GPU."""
    readers = config.data.workers if config is not None else 0
    need = {rank: f.local_world_size * max(f.threads, 1 + readers if f.gpus else 1) for rank, f in facts.items()}
    crowded = [rank for rank, f in facts.items() if need[rank] > f.cores]
    f = facts[min(crowded, default=min(facts))]
    seen = f"{f.host}: {f.local_world_size} processes of {f.threads} threads and {readers} readers on {f.cores} cores"
    if not crowded:
        return Check("cores", Status.PASS, seen)
    advice = max(1, f.cores // f.local_world_size)
    mend = f"OMP_NUM_THREADS={advice}, fewer data.workers, or more cores (sbatch --exclusive, a larger CPU request)"
    return Check("cores", Status.WARN, seen, mend)


def check_shared_memory(facts: Mapping[int, HostFacts]) -> Check:
    """Room in /dev/shm for NCCL, which shares buffers there between the GPUs of a host. The readers use pipes."""
    sharing = [f for _, f in sorted(facts.items()) if f.gpus and f.local_world_size > 1]
    if not sharing:
        return Check("shared memory", Status.PASS, "not needed: no host has several processes on GPUs")
    f = min(sharing, key=lambda f: f.shared_memory_free_bytes)
    seen = f"{f.host}: {f.shared_memory_free_bytes / 2**20:,.0f} MiB free in /dev/shm"
    if f.shared_memory_free_bytes > DOCKER_DEFAULT_BYTES:
        return Check("shared memory", Status.PASS, seen)
    mend = "a larger /dev/shm for NCCL (docker --shm-size, a memory-backed emptyDir)"
    return Check("shared memory", Status.WARN, seen + ", no more than a container's default", mend)


def check_open_files(facts: Mapping[int, HostFacts], world_size: int) -> Check:
    """Enough file descriptors: gloo keeps a socket to every rank in each of two groups."""
    need = 256 + 2 * world_size
    least = min(sorted(facts), key=lambda rank: facts[rank].open_files_limit)
    f = facts[least]
    seen = f"{f.host}: limit {f.open_files_limit:,}, {world_size} process(es) need about {need:,}"
    if f.open_files_limit < need:
        return Check("open files", Status.FAIL, seen, "ulimit -n 65536 (LimitNOFILE= of the service, or --ulimit)")
    return Check("open files", Status.PASS, seen)
