"""`biggan doctor`, `biggan report`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from biggan.cli.failures import leave_exit_code, say
from biggan.errors import InputError


def doctor(
    config: Annotated[Path | None, typer.Argument(help="The preset of the run to be.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as for `biggan train`.")] = None,
    data: Annotated[str | None, typer.Option(help="A packed data set; default data.path of CONFIG.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run folder; default run.dir of CONFIG.")] = None,
    checksums: Annotated[bool, typer.Option(help="Read every shard once, shared out over the ranks.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was seen and measured to this file.")] = None,
    timeout_seconds: Annotated[int, typer.Option(min=4, help="Ends, and names the silent ranks, within this.")] = 120,
) -> None:
    """Look for what would kill a run: network, versions, config, data, disk, devices.

    Alone for one machine, or as the run will be started: torchrun ... -m biggan doctor CONFIG ...

    Exit codes: 0 nothing failed, 2 a check failed (the table says what mends it) or bad input.
    """
    # Before torch is imported: its C++ stack traces would bury the line that says what is wrong.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from biggan.doctor.examination import ExaminationRequest, examine
    from biggan.doctor.rank_store import exit_process

    request = ExaminationRequest(
        preset=config,
        overrides=overrides or [],
        data=data,
        run_dir=run_dir,
        checksums=checksums,
        json_file=json,
        timeout_seconds=timeout_seconds,
    )
    try:
        exit_code = examine(request)
        leave_exit_code(exit_code)
    except InputError as error:
        exit_code = say(error)
    exit_process(exit_code)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may be going on.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; default RUN/collapse/report.html.")] = None,
) -> None:
    """Write one HTML page: verdict, spectra, curves, samples, checkpoints, and how to go on."""
    from biggan.report.report_page import write_report

    try:
        path = write_report(run, out)
    except OSError as error:
        raise InputError(f"{out or run}: the report cannot be written ({error.strerror or error})") from None
    sys.stdout.write(f"{path}\n")
