"""All commands. Each imports heavy modules itself, so that `--help` starts fast."""

from __future__ import annotations

import os
import sys

import typer

from biggan.cli import exit_at_once
from biggan.cli.data_commands import data, pack
from biggan.cli.diagnosis_commands import doctor, report
from biggan.cli.eval_command import evaluate
from biggan.cli.export_commands import export, serve
from biggan.cli.failures import report_failure
from biggan.cli.import_command import import_checkpoint
from biggan.cli.sample_command import sample
from biggan.cli.training_commands import parameters, probe, train
from biggan.errors import LostProcesses, StoppedRun, from_os_error

app = typer.Typer(
    help="Train class-conditional BigGANs on your own images, on one process or many.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (train, probe, pack, data, parameters, doctor, report, sample, export, serve):
    app.command()(command)
app.command("eval")(evaluate)
app.command("import")(import_checkpoint)


def run_command() -> None:
    """Run the command of this process; exit with the code of an expected failure, after its line."""
    try:
        _run_app()
    except StoppedRun as error:
        code = report_failure(error)
        if isinstance(error, LostProcesses):  # a thread may wait for a dead connection
            exit_at_once(code)
        sys.exit(code)


def _run_app() -> None:
    """Run the command; raise InputError for a file or folder that cannot be used (no permission, a stale handle)."""
    try:
        app([_with_home(argument) for argument in sys.argv[1:]])
    except OSError as error:
        known = from_os_error(error)
        if known is None:
            raise
        raise known from error


def _with_home(argument: str) -> str:
    """Return the argument with a leading `~/` as the home folder, also in `--out=~/x`, where shells keep it."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if value == "~" or value.startswith("~/"):
        value = os.path.expanduser(value)
    return flag + equals + value
