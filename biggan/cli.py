"""The commands. Heavy imports stand at the top of the command that needs them: `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError, LostProcesses, StoppedRun

if TYPE_CHECKING:
    from PIL import Image

    from biggan.config import Config

app = typer.Typer(
    help="Train class-conditional BigGANs on your own images, on one process or many.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


SECONDS_FOR_THE_FIRST = 10
"""By how much processes of one machine, started together, can part before they fail in the same way."""


class Encoding(StrEnum):
    """How images are stored in shards."""

    png = "png"
    jpeg = "jpeg"


def main() -> None:
    """Run a command; an expected failure is one line on standard error and its own exit code."""
    try:
        app()
    except StoppedRun as error:
        code = _say(error)
        if isinstance(error, LostProcesses):  # a thread may still wait for a dead connection, and keep the interpreter
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _say(error: StoppedRun) -> int:
    """Say why it ended, once; return the exit code."""
    if not error.said:
        if not isinstance(error, LostProcesses):
            _let_the_first_speak()
        sys.stderr.write(f"biggan: {error}\n")
    _leave_exit_code(error.exit_code)
    return error.exit_code


def _let_the_first_speak() -> None:
    """One line per machine: what fails in this process has failed, or will, in the machine's first one too.

    That one speaks, and torchrun then ends this one. If it does not (it has a GPU, and this process has none), this
    process goes on, and speaks.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_FOR_THE_FIRST)


def _leave_exit_code(code: int) -> None:
    """Tell launch/torchrun.sh: torchrun restarts whatever failed, and at last ends with 1 itself."""
    if path := os.environ.get("BIGGAN_EXIT_CODES"):
        with suppress(OSError), Path(path).open("a") as file:  # a full disk may be what has just been said
            file.write(f"{code}\n")


@app.command()
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
        str | None, typer.Option(help="Begin a child run from RUN@STEP, or RUN@good, the last good one; needs --as.")
    ] = None,
    as_run: Annotated[Path | None, typer.Option("--as", help="With --resume: the child's run folder.")] = None,
) -> None:
    """Train, or go on with, the run that a config describes.

    Run it again to resume. Under torchrun: torchrun --nproc_per_node N -m biggan train CONFIG ...
    A child run: biggan train --resume runs/a@good --as runs/b optimizer.g_lr=1e-4

    Exit codes: 0 done, 2 bad input, 3 non-finite loss, 4 damaged data, 5 checkpoint not written,
    6 another process lost, 7 collapsing, 75 stopped by SIGTERM or SIGINT (run it again).
    """
    from biggan.distributed.process import world_size_from_environment
    from biggan.preset import resolve
    from biggan.training import lineage

    parent = None
    if resume is not None or as_run is not None:
        if resume is None or as_run is None:
            raise InputError("--resume RUN@STEP and --as NEWRUN go together: a checkpoint, and the child's folder")
        changes = [*([] if config is None else [config]), *(overrides or [])]
        known = lineage.continued(resume, as_run, changes)
        if known is None:
            parent = lineage.ancestor(resume, "--resume")
        resolved = known or lineage.child_config(lineage.ancestor(resume, "--resume"), as_run, changes)
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

    from biggan.training.run import train as train_run

    train_run(resolved, fresh, parent)


@app.command()
def probe(
    checkpoint: Annotated[str, typer.Argument(metavar="RUN@STEP", help="Where all of them begin; RUN@good too.")],
    steps: Annotated[int, typer.Option(min=10, help="G steps of each experiment.")] = 300,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, for all of them.")] = None,
) -> None:
    """Freeze G, freeze D, double each learning rate, halve G's: what does D's loss do?

    The paper's experiments, as child runs from one checkpoint in RUN/probes, and their curves on one picture. Run it
    again after an interruption, under torchrun as well.
    """
    from biggan.collapse import probe as probing
    from biggan.distributed.process import is_first
    from biggan.training import lineage
    from biggan.training.run import train as train_run

    parent = lineage.ancestor(checkpoint, "RUN@STEP")

    def train_child(run_dir: Path, changes: list[str]) -> None:
        train_run(lineage.child_config(parent, run_dir, [*(overrides or []), *changes]), False, parent)

    probing.make(parent, steps, train_child)
    if is_first():
        sys.stdout.write(f"{probing.draw(parent, steps)}\n")


def _print_warnings(config: Config) -> None:
    """What training would refuse or warn of; of the data, if it is there to be looked at."""
    from biggan.build import check_interventions
    from biggan.collapse import interventions

    check_interventions(config)
    sys.stdout.writelines(f"warning: {warning}\n" for warning in interventions.warnings(config))
    if "://" not in config.data.path and not Path(config.data.path).is_dir():
        sys.stdout.write(f"data.path: {config.data.path} does not exist yet: not checked\n")
        return
    from biggan.training.run import trainable_dataset

    sys.stdout.writelines(f"warning: {warning}\n" for warning in trainable_dataset(config)[1])


def _print_estimate(config: Config, world_size: int, calibration: Path | None) -> None:
    from rich.console import Console

    from biggan.cost.estimate import estimate, read_calibration
    from biggan.cost.scaling import ASSUMED
    from biggan.cost.table import print_cost

    cluster, source = ASSUMED, "an assumed GPU cluster, docs/scaling.md"
    if calibration is not None:
        cluster, source = read_calibration(calibration)
    console = Console()
    console.print(config.to_yaml(), highlight=False, markup=False, soft_wrap=True)
    for note in config.notes():
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    print_cost(console, config, world_size, estimate(config, world_size, cluster), source)


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="Folder of class folders, zip of one, digits, or torchvision:NAME.")],
    dest: Annotated[Path, typer.Argument(help="Folder to write: shards and dataset.json.")],
    resolution: Annotated[int, typer.Option(min=8, max=4096, help="Pixels; training takes 32, 64, 128, 256 or 512.")],
    val_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="Share of each class that is held out.")] = 0.0,
    encoding: Annotated[Encoding, typer.Option(help="Lossless, or quality 95 at a third of the size.")] = Encoding.png,
    shards: Annotated[int, typer.Option(min=0, help="Training shards; 0: about 1,000 images each, 16 to 1024.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Packing processes; 0: one per CPU.")] = 0,
    torchvision_root: Annotated[Path, typer.Option(help="Where torchvision finds or downloads its files.")] = Path(
        "data/torchvision"
    ),
) -> None:
    """Turn images into shards: centre-cropped, resized, RGB. Run it again after an interruption."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from biggan.data import pack as packing

    plan = packing.Plan(source, resolution, encoding.value, val_fraction, shards, str(torchvision_root))
    job = packing.begin(plan, dest)
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=job.images)

        def on_shard(shard: packing.Packed) -> None:
            for path, reason in shard.skipped:
                console.print(f"skipped {path}: {reason}", highlight=False, markup=False, soft_wrap=True)
            progress.update(task, advance=shard.images + len(shard.skipped))

        dataset = job.run(workers or len(os.sched_getaffinity(0)), on_shard)
    if resolution not in (32, 64, 128, 256, 512):
        console.print(f"note: the networks take 32, 64, 128, 256 or 512 px, not {resolution}", highlight=False)
    splits = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    console.print(
        f"{dest}: {dataset.images} images ({splits}) of {len(dataset.classes)} classes at {resolution} px; "
        f"{len(dataset.skipped)} unreadable skipped",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def data(
    dataset_path: Annotated[Path, typer.Argument(metavar="DEST", help="A packed data set.")],
    out: Annotated[Path | None, typer.Option(help="The contact sheet; default DEST/contact_sheet.png.")] = None,
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images of each class.")] = 10,
    max_classes: Annotated[int, typer.Option(min=1, max=1000, help="Classes on the sheet.")] = 20,
) -> None:
    """Show the class histogram and write a contact sheet."""
    from rich.console import Console

    from biggan.data.dataset import check_trainable, load
    from biggan.data.preview import first_of_each_class
    from biggan.pictures import grid

    dataset = load(dataset_path)
    console = Console()
    widest, most = max(len(c) for c in dataset.classes), max(dataset.class_counts)
    for name, count in zip(dataset.classes, dataset.class_counts, strict=True):
        console.print(f"{name:>{widest}} {count:>8} {'█' * round(40 * count / most)}", highlight=False, markup=False)
    console.print(f"{dataset.images} images, {dataset.resolution} px", highlight=False)
    for warning in check_trainable(dataset, classes=len(dataset.classes), resolution=dataset.resolution, streams=1):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    rows, shown = first_of_each_class(dataset, str(dataset_path), per_class, max_classes)
    _save_picture(grid(rows, [dataset.classes[k] for k in shown]), out or dataset_path / "contact_sheet.png")


@app.command()
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
    from biggan.doctor.board import leave
    from biggan.doctor.examination import Request, examine

    request = Request(
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
        _leave_exit_code(exit_code)
    except InputError as error:
        exit_code = _say(error)
    leave(exit_code)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may be going on.")],
    out: Annotated[Path | None, typer.Option(help="The page to write; default RUN/collapse/report.html.")] = None,
) -> None:
    """Write one HTML page: verdict, spectra, curves, samples, checkpoints, and how to go on."""
    from biggan.collapse.report import write_report

    try:
        path = write_report(run, out)
    except OSError as error:
        raise InputError(f"{out or run}: the report cannot be written ({error.strerror or error})") from None
    sys.stdout.write(f"{path}\n")


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run folder (newest) or a checkpoint.")],
    classes: Annotated[str, typer.Option(help="Names or numbers, comma-separated; default: up to 20 of them.")] = "",
    per_class: Annotated[int, typer.Option(min=1, help="Images of each class: the columns of the grid.")] = 8,
    truncation: Annotated[
        float | None, typer.Option(help="Draw values of z beyond this again; smaller is truer, larger more varied.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
) -> None:
    """Draw a grid from the averaged (EMA) generator: one class per row."""
    if truncation is not None and truncation <= 0:
        raise InputError(f"--truncation: {truncation}; use a number above 0 (2 is mild, 0.5 strong), or leave it out")
    from biggan.distributed.process import this_device
    from biggan.generation.load import load_ema
    from biggan.generation.sample import generate_rows
    from biggan.pictures import grid

    device = this_device()
    generator, names = load_ema(run, device, lambda message: sys.stderr.write(f"{message}\n"))
    shown = _chosen(classes, names)
    rows = generate_rows(generator, shown, per_class, truncation, seed, device)
    _save_picture(grid(rows, [names[k] for k in shown]), out)


def _chosen(wanted: str, names: tuple[str, ...]) -> list[int]:
    """Class numbers from a comma-separated list of names or numbers."""
    import difflib

    from biggan.pictures import evenly_spaced

    if not wanted:
        return evenly_spaced(len(names), 20)
    chosen = []
    for text in (part.strip() for part in wanted.split(",")):
        if text in names:
            chosen.append(names.index(text))
        elif text.isdecimal() and int(text) < len(names):
            chosen.append(int(text))
        else:
            near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
            hint = f"nearest: {near[0]}; " if near else ""
            raise InputError(f"--classes: no class '{text}' ({hint}numbers go from 0 to {len(names) - 1})")
    return chosen


def _save_picture(picture: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "use .png or .jpg"
        raise InputError(f"--out: {path}: cannot be written ({reason})") from None
    sys.stdout.write(f"{path}\n")
