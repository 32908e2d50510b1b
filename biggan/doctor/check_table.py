"""The table of `biggan doctor`: its rows from the ranks' findings, printed and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biggan.config import Config
from biggan.doctor import dataset_checks, disk_checks, host_checks, network_checks
from biggan.doctor.check import Check, Status
from biggan.doctor.dataset_checks import DataFacts
from biggan.doctor.disk_checks import FolderFacts
from biggan.doctor.host import HostFacts
from biggan.doctor.network import NetworkFacts, slowest_timings
from biggan.doctor.network_checks import SilentRanks
from biggan.errors import InputError, printable_line, without_credentials
from biggan.files import write_atomically

STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.NOT_CHECKED: "dim"}
LOG_COLUMNS = 140
"""Table width without a terminal, as in a scheduler's log."""


@dataclass
class Findings:
    """Facts reported by the ranks, by rank. None: not requested. Empty: not reached."""

    world_size: int
    hosts: dict[int, HostFacts] = field(default_factory=dict)
    data: dict[int, DataFacts] | None = None
    checksums: dict[int, list[str]] | None = None
    folder: FolderFacts | None = None
    checkpoint_bytes: int = 0
    """Size of one checkpoint; 0 without CONFIG."""
    token_read: dict[int, bool] | None = None
    """True for each rank that can read rank 0's file in the run folder."""
    network: dict[int, NetworkFacts] | None = None
    silent: SilentRanks | None = None


def table_rows(findings: Findings, config: Config | None) -> list[Check]:
    """Return every row of the table, in its order. Rows not requested or not reached are `not checked`."""
    hosts = network_checks.known_hosts(findings.hosts, findings.world_size)
    return [
        network_checks.check_rendezvous(findings.hosts, findings.world_size, findings.silent),
        network_checks.check_addresses(findings.hosts),
        host_checks.check_versions(findings.hosts),
        host_checks.check_config(findings.hosts),
        host_checks.check_environment(findings.hosts),
        host_checks.check_devices(findings.hosts),
        host_checks.check_cores(findings.hosts, config),
        host_checks.check_shared_memory(findings.hosts),
        host_checks.check_open_files(findings.hosts, findings.world_size),
        *dataset_checks.check_data(findings.data, hosts),
        dataset_checks.check_checksums(findings.checksums, hosts),
        *disk_checks.check_folder(findings.folder, findings.token_read, config, findings.checkpoint_bytes, hosts),
        *network_checks.check_collectives(findings.network, hosts),
        network_checks.check_clocks(findings.network, hosts),
        network_checks.check_links(findings.network, hosts),
        network_checks.check_stragglers(findings.network, hosts),
    ]


def print_table(checks: Sequence[Check], world_size: int) -> None:
    """Print the table and, below it, one line per failed check."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_COLUMNS)
    table = Table(title=f"biggan doctor, {world_size} process(es)", title_justify="left", show_lines=True)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("observed", overflow="fold", ratio=3)
    table.add_column("fix", overflow="fold", ratio=2)
    for check in checks:
        style = STYLES[check.status]
        table.add_row(
            check.name,
            f"[{style}]{check.status}[/{style}]",
            escape(printable_line(check.observed)),
            escape(printable_line(check.fix)),
        )
    console.print(table)
    failed = [check for check in checks if check.status is Status.FAIL]
    for check in failed:  # repeated on one line each: users search logs and copy paths from them
        console.print(
            printable_line(f"failed: {check.name}: {check.observed}"), highlight=False, markup=False, soft_wrap=True
        )
    if not failed:
        console.print("nothing failed", highlight=False)


def write_json(path: Path, checks: Sequence[Check], findings: Findings) -> None:
    """Write the checks, and the hosts and collective timings as far as they are known, as JSON.

    Raises InputError if the file cannot be written.
    """
    network = findings.network or {}
    contents = {
        "world_size": findings.world_size,
        "hosts": list(dict.fromkeys(f.host for _, f in sorted(findings.hosts.items()))),
        "backend": network[min(network)].backend if network else "",
        "collectives": [timing.model_dump() for timing in slowest_timings(network)],
        "checks": [
            {"name": c.name, "status": c.status.value, "observed": without_credentials(c.observed), "fix": c.fix}
            for c in checks
        ],
    }
    try:
        write_atomically(path, json.dumps(contents, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json: {path}: cannot be written ({error.strerror}); choose another path") from None
