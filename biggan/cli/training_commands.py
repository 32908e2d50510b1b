"""The commands `biggan train`, `biggan probe` and `biggan parameters`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.cli.output import check_printed
from biggan.errors import InputError, printable_line, without_credentials

if TYPE_CHECKING:
    from biggan.config import Config
    from biggan.runs.lineage import Ancestor


ConfigArgument = Annotated[
    str | None, typer.Argument(help="A preset such as configs/digits.yaml; omit it with --resume.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in training.steps=1000.")]
DryRun = Annotated[bool, typer.Option(help="Print the resolved config and its cost; start nothing.")]
Fresh = Annotated[bool, typer.Option(help="Refuse a run folder that is not empty, instead of resuming.")]
Calibration = Annotated[
    Path | None, typer.Option(help="With --dry-run: predict from the measurements of biggan doctor --json.")
]
Resume = Annotated[str | None, typer.Option(help="Start a child run from RUN@STEP, RUN@best or RUN@good; needs --as.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Import the files that the config's extension names.")]
AsRun = Annotated[Path | None, typer.Option("--as", help="With --resume: the child's run folder.")]


def train(
    config: ConfigArgument = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    calibration: Calibration = None,
    resume: Resume = None,
    as_run: AsRun = None,
    allow_code: AllowCode = False,
) -> None:
    """Train the run that a config describes, or resume it.

    Run the same command again to resume. With torchrun: torchrun --nproc_per_node N -m biggan train CONFIG ...
    A child run: biggan train --resume runs/a@good --as runs/b optimizer.g_lr=1e-4

    Exit codes: 0 done, 2 bad input, 3 non-finite loss, 4 corrupt data, 5 checkpoint not written,
    6 another process lost, 7 collapsing, 75 stopped by SIGTERM, SIGINT or SIGHUP (run it again).
    """
    from biggan.distributed.environment import world_size_from_environment

    resolved, parent = _resolve_run(config, overrides or [], resume, as_run)
    resolved.check_world_size(world_size_from_environment())
    if calibration is not None and not dry_run:
        raise InputError("--calibration: only a dry run predicts; add --dry-run, or remove --calibration")
    if dry_run:
        _print_estimate(resolved, world_size_from_environment(), calibration)
        _print_warnings(resolved)
        check_printed()
        return

    from biggan.startup.start import train as train_run

    train_run(resolved, fresh, parent, allow_code)


def _resolve_run(
    config: str | None, overrides: list[str], resume: str | None, as_run: Path | None
) -> tuple[Config, Ancestor | None]:
    """Return the config of the run and, for a new child run, its parent checkpoint; raise InputError."""
    from biggan.config.preset import resolve
    from biggan.runs import lineage

    if resume is None and as_run is None:
        if config is None:
            raise InputError("CONFIG: missing; give one such as configs/digits.yaml, or --resume RUN@STEP --as NEWRUN")
        return resolve(Path(config), overrides), None
    if resume is None or as_run is None:
        raise InputError("--resume RUN@STEP and --as NEWRUN go together: give a checkpoint and the child's run folder")
    changes = [*([] if config is None else [config]), *overrides]
    existing = lineage.existing_child_config(resume, as_run, changes)
    if existing is not None:
        return existing, None
    parent = lineage.find_ancestor(resume, "--resume")
    return lineage.child_config(parent, as_run, changes), parent


def probe(
    checkpoint: Annotated[
        str, typer.Argument(metavar="RUN@STEP", help="Common start of all experiments; RUN@good or RUN@best too.")
    ],
    steps: Annotated[int, typer.Option(min=10, help="G steps of each experiment.")] = 300,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, for all experiments.")] = None,
) -> None:
    """Test the effect on D's loss of freezing G, freezing D, doubling each learning rate, and halving G's.

    These are the paper's experiments, run as child runs of one checkpoint in RUN/probes, with their curves in one
    figure. It also works with torchrun. Run it again after an interruption.
    """
    from biggan.distributed.environment import global_rank
    from biggan.runs import lineage
    from biggan.startup import probe as probing
    from biggan.startup.start import train as train_run

    parent = lineage.find_ancestor(checkpoint, "RUN@STEP")

    def train_child(run_dir: Path, changes: list[str]) -> None:
        train_run(lineage.child_config(parent, run_dir, [*(overrides or []), *changes]), False, parent)

    probing.make(parent, steps, train_child)
    if global_rank() == 0:
        sys.stdout.write(f"{probing.draw(parent, steps)}\n")


def _print_warnings(config: Config) -> None:
    """Print the warnings of a training run, or raise its InputError; the data set is checked if it exists."""
    from biggan.config import interventions
    from biggan.startup.checks import check_interventions

    check_interventions(config)
    sys.stdout.writelines(f"warning: {warning}\n" for warning in interventions.warnings(config))
    if "://" not in config.data.path and not Path(config.data.path).is_dir():
        sys.stdout.write(f"data.path: {printable_line(config.data.path)} does not exist yet, not checked\n")
        return
    from biggan.finetuning.plan import plan
    from biggan.finetuning.trained_networks import locate
    from biggan.runs.run_folder import has_checkpoints
    from biggan.startup.checks import trainable_dataset

    dataset, warnings = trainable_dataset(config)
    sys.stdout.writelines(f"warning: {printable_line(warning)}\n" for warning in warnings)
    if config.init.source and not has_checkpoints(config.run.dir):
        source = locate(config.init.source, lambda message: sys.stdout.write(f"{message}\n"))
        transfer = plan(config, dataset.classes, source)
        sys.stdout.writelines(f"{printable_line(line)}\n" for line in transfer.lines())


def _print_estimate(config: Config, world_size: int, calibration: Path | None) -> None:
    from rich.console import Console

    from biggan.cost.calibration import read_calibration
    from biggan.cost.dry_run_table import print_cost
    from biggan.cost.estimate import estimate
    from biggan.cost.scaling import ASSUMED

    cluster = ASSUMED
    basis = "predicted for an assumed cluster of H100 GPUs, not this machine (docs/scaling.md)"
    if calibration is not None:
        cluster, source = read_calibration(calibration)
        basis = f"predicted by the scaling model (its numbers: {source})"
    console = Console(emoji=False)
    console.print(without_credentials(config.to_yaml()), highlight=False, markup=False, soft_wrap=True)
    for note in config.notes():
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if config.extension.named():
        console.print("extension: not imported by a dry run, so its cost is not counted", soft_wrap=True)
    print_cost(console, config, world_size, estimate(config, world_size, cluster), basis)


def parameters(
    configs: Annotated[list[Path], typer.Argument(help="Presets or other configs, as in configs/*.yaml.")],
) -> None:
    """Print a table of the number of parameters of each config's networks."""
    from rich.console import Console
    from rich.table import Table

    from biggan.config.preset import resolve
    from biggan.startup.checks import parameter_counts

    table = Table()
    for column in ("config", "family", "px", "channels", "z", "attention G / D"):
        table.add_column(column)
    for column in ("G parameters", "D parameters"):
        table.add_column(column, justify="right")
    for config in configs:
        model = resolve(config).model
        widths = f"{model.channels}" + (f" / {model.d_channels}" if model.d_channels else "")
        attention = " / ".join(",".join(map(str, at)) or "-" for at in (model.g_attention, model.d_attention))
        z, counts = str(model.effective_z_dim), [f"{count:,}" for count in parameter_counts(model)]
        table.add_row(config.stem, model.family, str(model.resolution), widths, z, attention, *counts)
    # Use a large width: at the terminal's width, or a pipe's 80 columns, Rich truncates names and numbers.
    Console(width=10_000).print(table)
    check_printed()
