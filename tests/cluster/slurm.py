"""A Slurm cluster of two nodes on loopback, in a folder and a process namespace of its own."""

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runs import environment

ROOT = Path(__file__).parents[2]
CONF = """
ClusterName=biggan
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
DAEMONS = """
munged --foreground --force --key-file=munge.key --socket=munge.socket --pid-file=munged.pid --log-file=munged.log \
    --seed-file=munged.seed &
until [ -S munge.socket ]; do sleep 0.1; done
slurmctld -D -i & slurmd -D -N n1 & slurmd -D -N n2 &
wait
"""
SECONDS_TO_START = 30


@dataclass(frozen=True)
class Job:
    """Return the output of `scontrol show job`."""

    state: str
    reason: str
    restarts: int
    exit_code: str


class Slurm:
    """slurmctld, two slurmd and munged. Leaving ends them and every process of every job."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (self.folder / "munge.key").chmod(0o400)
        port, first = free_ports(1)[0], consecutive_ports()
        conf = CONF.format(host=socket.gethostname(), folder=self.folder, port=port, first=first, second=first + 1)
        (self.folder / "slurm.conf").write_text(conf)
        with (self.folder / "daemons.log").open("w") as log:
            self._init = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", DAEMONS],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_for_nodes()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._init.kill()  # the kernel ends the whole process namespace with it
        self._init.wait()

    def submit(self, options: list[str], arguments: list[str], output: Path) -> int:
        """`sbatch OPTIONS launch/slurm.sbatch ARGUMENTS` on both nodes; the job's number."""
        batch = ["sbatch", "--parsable", "--nodes=2", f"--output={output}", *options, "launch/slurm.sbatch"]
        return int(self.command(*batch, *arguments))

    def job(self, number: int) -> Job:
        """The state of a job."""
        shown = self.command("scontrol", "show", "job", str(number))
        fields = dict(re.findall(r"(\w+)=(\S*)", shown))
        return Job(fields["JobState"], fields["Reason"], int(fields["Restarts"]), fields["ExitCode"])

    def wait(self, number: int, *states: str, timeout_seconds: int) -> Job:
        """The job once it is in one of the states."""
        deadline = time.monotonic() + timeout_seconds
        while (job := self.job(number)).state not in states:
            assert time.monotonic() < deadline, f"{job}, not {states}"
            time.sleep(0.5)
        return job

    def leave_minutes(self, number: int, minutes: int) -> None:
        """Set the time limit to at most so many minutes, and at least one less, from now."""
        elapsed = self.command("squeue", "--noheader", f"--jobs={number}", "--format=%M").strip()  # mm:ss
        passed = int(elapsed.split(":")[-2])
        self.command("scontrol", "update", f"JobId={number}", f"TimeLimit={passed + minutes}")

    def command(self, *arguments: str) -> str:
        """Return the output of a Slurm command."""
        done = subprocess.run(arguments, capture_output=True, text=True, env=self._environment, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in environment().items() if not key.startswith(("SLURM_", "SBATCH_"))}
        ours = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHON": sys.executable, "NPROC_PER_NODE": "1"}
        return inherited | ours | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        sinfo = ["sinfo", "--noheader", "--format=%T"]
        while True:
            done = subprocess.run(sinfo, capture_output=True, text=True, env=self._environment, check=False)
            if done.stdout.split() == ["idle"]:
                return
            assert time.monotonic() < deadline, (self.folder / "daemons.log").read_text() + done.stderr
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def consecutive_ports() -> int:
    """The first of two neighbouring ports that are free."""
    for port in free_ports(20):
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no two neighbouring ports are free")
