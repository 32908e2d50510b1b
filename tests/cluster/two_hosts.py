"""Two hosts in one machine: namespaces with their own network, host name and processes, and a link between them."""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runs import environment

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch" / "torchrun.sh"
ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
HEAD = "alpha"
WORKER = ["-u", "-m", "biggan"]
"""Command line of torchrun's worker, after its interpreter."""
AS_HOST = """
hostname "$0"
"$@"
code=$?
echo "left behind: [$(pgrep -af '^[^ ]*python')]"
exit $code
"""


@dataclass(frozen=True)
class Run:
    """`launch/torchrun.sh` on one host."""

    process: subprocess.Popen
    log: Path

    def end(self, timeout_seconds: float) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(timeout=timeout_seconds)

    def has_ended(self) -> bool:
        """Return True if it has ended."""
        return self.process.poll() is not None

    @property
    def output(self) -> str:
        """Return its output so far."""
        return self.log.read_text()


class Host:
    """A network namespace; what runs in it has the host name `name` and sees the other host by name."""

    def __init__(self, name: str):
        self.name = name
        self.namespace = f"biggan-{os.getpid()}-{name}"
        self.hosts_file = Path("/etc/netns") / self.namespace / "hosts"  # `ip netns exec` mounts it over /etc/hosts
        self._processes: list[subprocess.Popen] = []

    def open(self) -> None:
        """Make the namespace."""
        self.hosts_file.parent.mkdir(parents=True)
        lines = [f"{address} {name}\n" for name, address in ADDRESSES.items()]
        self.hosts_file.write_text("127.0.0.1 localhost\n" + "".join(lines))
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")

    def close(self) -> None:
        """End every process of the host, and remove it."""
        for process in self._processes:
            process.kill()  # unshare's; the kernel ends the whole process namespace with it
            process.wait()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)
        shutil.rmtree(self.hosts_file.parent, ignore_errors=True)

    def launch(self, arguments: list[str], log: Path, variables: dict[str, str]) -> Run:
        """Start `launch/torchrun.sh ARGUMENTS` here."""
        isolate = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        inside = [*isolate, "sh", "-c", AS_HOST, self.name, str(LAUNCH), *arguments]
        with log.open("w") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment() | {"PYTHON": sys.executable, "NPROC_PER_NODE": "1"} | variables,
                cwd=ROOT,
            )
        self._processes.append(process)
        return Run(process, log)

    def worker(self) -> int:
        """Process id of this host's training process (readers have it as parent, it has torchrun)."""
        return self._first_process(WORKER)

    def worker_is_connected(self) -> bool:
        """Return True if this host's training process has a connection to another host."""
        listed = subprocess.run(
            ["ip", "netns", "exec", self.namespace, "ss", "-Htnp", "state", "established"],
            capture_output=True,
            text=True,
            check=True,
        )
        return any(command_of(int(pid))[1:4] == WORKER for pid in re.findall(r"pid=(\d+)", listed.stdout))

    def launcher(self) -> int:
        """Process id of this host's `launch/torchrun.sh` (its subshells have it as parent)."""
        return self._first_process([str(LAUNCH)])

    def _first_process(self, arguments: list[str]) -> int:
        """The process that was started with these first arguments, not by another such process."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True)
        pids = [int(pid) for pid in listed.stdout.split()]
        such = [pid for pid in pids if command_of(pid)[1 : 1 + len(arguments)] == arguments]
        (first,) = [pid for pid in such if parent_of(pid) not in such]
        return first


class TwoHosts:
    """`alpha`, which holds the rendezvous, and `beta`."""

    def __init__(self) -> None:
        self.hosts = {name: Host(name) for name in ADDRESSES}

    def __enter__(self) -> "TwoHosts":
        try:
            for host in self.hosts.values():
                host.open()
            alpha, beta = (host.namespace for host in self.hosts.values())
            ip("link", "add", "eth0", "netns", alpha, "type", "veth", "peer", "name", "eth0", "netns", beta)
            for name, host in self.hosts.items():
                ip("-n", host.namespace, "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
                ip("-n", host.namespace, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.close()

    def launch(
        self, arguments: list[str], logs: Path, only_beta: tuple[str, ...] = (), **variables: str
    ) -> dict[str, Run]:
        """Start a run on both hosts; `only_beta` are further arguments there."""
        variables = {"NNODES": "2", "RDZV_ENDPOINT": f"{HEAD}:29500"} | variables
        return {
            name: host.launch([*arguments, *(only_beta if name == "beta" else ())], logs / f"{name}.log", variables)
            for name, host in self.hosts.items()
        }

    def cut(self) -> float:
        """Pull the cable; the moment it was done, on the monotonic clock."""
        ip("-n", self.hosts["beta"].namespace, "link", "set", "eth0", "down")
        return time.monotonic()

    def restore_link(self) -> None:
        """Put it back."""
        ip("-n", self.hosts["beta"].namespace, "link", "set", "eth0", "up")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:  # it has ended
        return []


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
