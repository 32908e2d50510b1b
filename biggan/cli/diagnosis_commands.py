"""The commands `biggan doctor` and `biggan report`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from biggan.cli.failures import record_exit_code, report_failure
from biggan.errors import InputError


def doctor(
    config: Annotated[Path | None, typer.Argument(help="The preset of the planned run.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as for `biggan train`.")] = None,
    data: Annotated[str | None, typer.Option(help="A packed data set; default data.path of CONFIG.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run folder; default run.dir of CONFIG.")] = None,
    checksums: Annotated[bool, typer.Option(help="Verify the checksums of all shards, divided over ranks.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write all findings and measurements to this file.")] = None,
    timeout_seconds: Annotated[int, typer.Option(min=4, help="Time limit; ranks without an answer are named.")] = 120,
) -> None:
    """Check network, versions, config, data, disk and devices for problems that would stop a run.

    Run it alone for one machine, or with the run's own launcher: torchrun ... -m biggan doctor CONFIG ...

    Exit codes: 0 all checks passed, 2 a check failed (the table shows the fix) or bad input.
    """
    # Set it before torch is imported: C++ stack traces would hide the message.
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
        record_exit_code(exit_code)
    except InputError as error:
        exit_code = report_failure(error)
    exit_process(exit_code)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may be in progress.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file to write; default RUN/collapse/report.html.")] = None,
) -> None:
    """Write an HTML report: verdict, spectra, curves, samples, checkpoints, and commands to continue with."""
    from biggan.report.report_page import write_report

    try:
        path = write_report(run, out)
    except OSError as error:
        raise InputError(f"{out or run}: the report cannot be written ({error.strerror or error}); set --out") from None
    sys.stdout.write(f"{path}\n")
