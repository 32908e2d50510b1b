"""The doctor's table, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biggan.doctor.check import Check, Status
from biggan.doctor.network import CollectiveTiming
from biggan.errors import InputError
from biggan.files import write_atomically

STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.NOT_CHECKED: "dim"}
LOG_COLUMNS = 140
"""Width where there is no terminal: in the log of a scheduler."""


def print_table(checks: Sequence[Check], world_size: int) -> None:
    """Write the table, and what failed, to standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_COLUMNS)
    table = Table(title=f"biggan doctor, {world_size} process(es)", title_justify="left", show_lines=True)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("seen", overflow="fold", ratio=3)
    table.add_column("mend", overflow="fold", ratio=2)
    for check in checks:
        style = STYLES[check.status]
        table.add_row(check.name, f"[{style}]{check.status}[/{style}]", escape(check.seen), escape(check.mend))
    console.print(table)
    failed = [check for check in checks if check.status is Status.FAIL]
    for check in failed:  # again, each on one line: a log is searched, and paths are copied from it
        console.print(f"failed: {check.name}: {check.seen}", highlight=False, markup=False, soft_wrap=True)
    if not failed:
        console.print("nothing failed", highlight=False)


def write_json(
    path: Path,
    checks: Sequence[Check],
    *,
    world_size: int,
    hosts: Sequence[str],
    backend: str,
    collectives: Sequence[CollectiveTiming],
) -> None:
    """Write everything machine-readable; `hosts` and `collectives` as far as known."""
    contents = {
        "world_size": world_size,
        "hosts": list(hosts),
        "backend": backend,
        "collectives": [c.model_dump() for c in collectives],
        "checks": [{"name": c.name, "status": c.status.value, "seen": c.seen, "mend": c.mend} for c in checks],
    }
    try:
        write_atomically(path, json.dumps(contents, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json: {path}: cannot be written ({error.strerror})") from None
