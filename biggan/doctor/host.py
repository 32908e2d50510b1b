"""Facts of one rank about its own process: host, versions, config, environment, devices. No judgement here."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import platform
import re
import resource
import shutil
import socket
import struct
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import BaseModel

import biggan
from biggan.config import Config
from biggan.config.preset import flat, resolve
from biggan.distributed.environment import local_rank, local_world_size
from biggan.errors import InputError

IMPORTED = ("torch", "torchvision", "webdataset")
INSTALLED = ("biggan", "deepspeed", "mlflow", "numpy", "pydantic", "safetensors")
RESULT_PREFIXES = (
    "ATEN_",
    "CUBLAS",
    "CUDNN_",
    "DNNL_",
    "DS_",
    "KMP_",
    "MKL_",
    "NCCL_",
    "NVIDIA_TF32_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_",
)
HOSTS_OWN = ("_IFNAME", "_HCA", "_DIR", "_FILE", "_LEVEL")
"""Suffixes of variables that may differ between hosts: names of devices, folders and files."""
SIOCGIFADDR = 0x8915


class Address(BaseModel):
    """Interface and IPv4 address that a host's sockets listen on, or an error."""

    interface: str
    address: str
    error: str = ""


class Gpu(BaseModel):
    """One GPU of a host."""

    name: str
    free_bytes: int
    total_bytes: int


class HostFacts(BaseModel):
    """Facts that one rank reports about itself."""

    host: str
    address: Address
    local_rank: int
    local_world_size: int
    versions: dict[str, str]
    config: dict[str, str] | None
    """Dotted keys and JSON values; None without CONFIG or if it could not be resolved."""
    config_error: str
    environment: dict[str, str]
    gpus: int
    gpu: Gpu | None
    cores: int
    threads: int
    shared_memory_free_bytes: int
    open_files_limit: int
    """The hard limit: a run raises its soft one to it."""


def try_resolve(preset: Path | None, overrides: Sequence[str], world_size: int) -> tuple[Config | None, str]:
    """Return the resolved config and "", or None and the error; None and "" without a preset.

    An invalid config raises nothing, because the other ranks' configs may be valid and must not wait for this rank.
    """
    if preset is None:
        return None, ""
    try:
        config = resolve(preset, overrides)
        config.check_world_size(world_size)
    except InputError as error:
        return None, str(error)
    return config, ""


def collect_host_facts(config: Config | None, config_error: str) -> HostFacts:
    """Return the facts of this rank."""
    return HostFacts(
        host=socket.gethostname(),
        address=address(os.environ),
        local_rank=local_rank(),
        local_world_size=local_world_size(),
        versions=versions(),
        config=None if config is None else as_text(config),
        config_error=config_error,
        environment=result_changing(os.environ),
        gpus=torch.cuda.device_count(),
        gpu=_gpu(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        shared_memory_free_bytes=shutil.disk_usage("/dev/shm").free,
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def as_text(config: Config) -> dict[str, str]:
    """Return every dotted key of a resolved config with its value as JSON."""
    return {key: json.dumps(value) for key, value in flat(config).items()}


def result_changing(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that can change results: thread counts (order of sums), algorithms, instruction sets."""
    return {
        key: value
        for key, value in sorted(environment.items())
        if key.startswith(RESULT_PREFIXES) and not key.endswith(HOSTS_OWN)
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, libraries, sources and driver that this process uses; "none" if absent."""
    found = {"python": platform.python_version()}
    # Ask the imported module, not the installed package: a folder on PYTHONPATH takes precedence.
    found |= {name: str(getattr(importlib.import_module(name), "__version__", "none")) for name in IMPORTED}
    found |= {name: _installed(name) for name in INSTALLED}
    found["biggan source"] = source_checksum(Path(biggan.__file__).parent)
    found["CUDA"] = str(torch.version.cuda or "none")
    found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else "none"
    driver = Path("/proc/driver/nvidia/version")
    found["driver"] = driver_version(driver.read_text()) if driver.is_file() else "none"
    return found


def driver_version(text: str) -> str:
    """Return the version number, such as 580.159.04, from the kernel module's text. Other words in it vary."""
    number = re.search(r"\d+(\.\d+)+", text)
    return number[0] if number else text.splitlines()[0].strip()


def source_checksum(package: Path) -> str:
    """Return 12 hex digits of a SHA-256 over the names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def address(environment: Mapping[str, str]) -> Address:
    """Return the interface and address gloo will use: GLOO_SOCKET_IFNAME, or those of the resolved host name."""
    interfaces = {name: ip for _, name in socket.if_nameindex() if (ip := _ipv4(name))}
    chosen = environment.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if chosen:
        if chosen in interfaces:
            return Address(interface=chosen, address=interfaces[chosen])
        error = f"GLOO_SOCKET_IFNAME={chosen}, but the interfaces with an address are {', '.join(sorted(interfaces))}"
        return Address(interface=chosen, address="", error=error)
    name = socket.gethostname()
    try:
        own = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return Address(interface="lo", address="127.0.0.1", error=f"the host's own name {name} does not resolve")
    by_address = {ip: interface for interface, ip in interfaces.items()}
    return Address(interface=by_address.get(str(own), "lo" if str(own).startswith("127.") else "?"), address=str(own))


def _ipv4(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
        except OSError:  # no IPv4 address
            return None
    return socket.inet_ntoa(answer[20:24])


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _gpu() -> Gpu | None:
    index = local_rank()
    if index >= torch.cuda.device_count():
        return None
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(name=torch.cuda.get_device_name(index), free_bytes=free, total_bytes=total)
