"""`biggan train`, `biggan probe`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError

if TYPE_CHECKING:
    from biggan.config import Config


def train(
    config: Annotated[
        str | None, typer.Argument(help="A preset such as configs/digits.yaml; with --resume, leave it out.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in training.steps=1000.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved config and its cost; start nothing.")] = False,
    fresh: Annotated[bool, typer.Option(help="Refuse to go on in a run folder that is not empty.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="With --dry-run: predict from what biggan doctor --json measured.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Begin a child run from RUN@STEP, RUN@best or RUN@good; needs --as.")
    ] = None,
    as_run: Annotated[Path | None, typer.Option("--as", help="With --resume: the child's run folder.")] = None,
) -> None:
    """Train, or go on with, the run that a config describes.

    Run it again to resume. Under torchrun: torchrun --nproc_per_node N -m biggan train CONFIG ...
    A child run: biggan train --resume runs/a@good --as runs/b optimizer.g_lr=1e-4

    Exit codes: 0 done, 2 bad input, 3 non-finite loss, 4 damaged data, 5 checkpoint not written,
    6 another process lost, 7 collapsing, 75 stopped by SIGTERM or SIGINT (run it again).
    """
    from biggan.config.preset import resolve
    from biggan.distributed.process import world_size_from_environment
    from biggan.runs import lineage

    parent = None
    if resume is not None or as_run is not None:
        if resume is None or as_run is None:
            raise InputError("--resume RUN@STEP and --as NEWRUN go together: a checkpoint, and the child's folder")
        changes = [*([] if config is None else [config]), *(overrides or [])]
        known = lineage.existing_child_config(resume, as_run, changes)
        if known is None:
            parent = lineage.find_ancestor(resume, "--resume")
        resolved = known or lineage.child_config(lineage.find_ancestor(resume, "--resume"), as_run, changes)
    elif config is None:
        raise InputError("CONFIG: which? give a preset such as configs/digits.yaml, or --resume RUN@STEP --as NEWRUN")
    else:
        resolved = resolve(Path(config), overrides or [])
    resolved.check_world_size(world_size_from_environment())
    if calibration is not None and not dry_run:
        raise InputError("--calibration: only a dry run predicts; add --dry-run, or leave it out")
    if dry_run:
        _print_estimate(resolved, world_size_from_environment(), calibration)
        _print_warnings(resolved)
        return

    from biggan.startup.start import train as train_run

    train_run(resolved, fresh, parent)


def probe(
    checkpoint: Annotated[
        str, typer.Argument(metavar="RUN@STEP", help="Where all of them begin; RUN@good, RUN@best too.")
    ],
    steps: Annotated[int, typer.Option(min=10, help="G steps of each experiment.")] = 300,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, for all of them.")] = None,
) -> None:
    """Freeze G, freeze D, double each learning rate, halve G's: what does D's loss do?

    The paper's experiments, as child runs from one checkpoint in RUN/probes, and their curves on one picture. Run it
    again after an interruption, under torchrun as well.
    """
    from biggan.distributed.process import is_first
    from biggan.runs import lineage
    from biggan.startup import probe as probing
    from biggan.startup.start import train as train_run

    parent = lineage.find_ancestor(checkpoint, "RUN@STEP")

    def train_child(run_dir: Path, changes: list[str]) -> None:
        train_run(lineage.child_config(parent, run_dir, [*(overrides or []), *changes]), False, parent)

    probing.make(parent, steps, train_child)
    if is_first():
        sys.stdout.write(f"{probing.draw(parent, steps)}\n")


def _print_warnings(config: Config) -> None:
    """What training would refuse or warn of; of the data, if it is there to be looked at."""
    from biggan.config import interventions
    from biggan.startup.checks import check_interventions

    check_interventions(config)
    sys.stdout.writelines(f"warning: {warning}\n" for warning in interventions.warnings(config))
    if "://" not in config.data.path and not Path(config.data.path).is_dir():
        sys.stdout.write(f"data.path: {config.data.path} does not exist yet: not checked\n")
        return
    from biggan.finetuning.plan import plan
    from biggan.finetuning.trained_networks import locate
    from biggan.runs.run_folder import has_checkpoints
    from biggan.startup.checks import trainable_dataset

    dataset, found = trainable_dataset(config)
    sys.stdout.writelines(f"warning: {warning}\n" for warning in found)
    if config.init.source and not has_checkpoints(config.run.dir):
        source = locate(config.init.source, lambda message: sys.stdout.write(f"{message}\n"))
        beginning = plan(config, dataset.classes, source)
        sys.stdout.writelines(f"{line}\n" for line in beginning.lines())


def _print_estimate(config: Config, world_size: int, calibration: Path | None) -> None:
    from rich.console import Console

    from biggan.cost.calibration import read_calibration
    from biggan.cost.dry_run_table import print_cost
    from biggan.cost.estimate import estimate
    from biggan.cost.scaling import ASSUMED

    cluster = ASSUMED
    time_heading = "predicted for an assumed cluster of H100 GPUs, not this machine (docs/scaling.md)"
    if calibration is not None:
        cluster, source = read_calibration(calibration)
        time_heading = f"predicted by the scaling model (its numbers: {source})"
    console = Console()
    console.print(config.to_yaml(), highlight=False, markup=False, soft_wrap=True)
    for note in config.notes():
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    print_cost(console, config, world_size, estimate(config, world_size, cluster), time_heading)


def parameters(
    configs: Annotated[list[Path], typer.Argument(help="Presets or other configs, as in configs/*.yaml.")],
) -> None:
    """How many parameters the networks of each config have, in one table."""
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
    # As wide as the table wants: at the terminal's width, or a pipe's 80 columns, Rich cuts names and numbers off.
    Console(width=10_000).print(table)
