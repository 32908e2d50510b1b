"""The commands. Heavy imports stand at the top of the command that needs them: `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError, StoppedRun

if TYPE_CHECKING:
    from PIL import Image

    from biggan.config import Config
    from biggan.data.dataset import Dataset
    from biggan.distributed.process import Process
    from biggan.training.report import Report

app = typer.Typer(
    help="Train class-conditional BigGANs on your own images, on one process or many.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Encoding(StrEnum):
    """How images are stored in shards."""

    png = "png"
    jpeg = "jpeg"


def main() -> None:
    """Run a command; an expected failure is one line on standard error and its own exit code."""
    try:
        app()
    except StoppedRun as error:
        # One line per machine, not one per process; and not again what the run's report has said.
        if not error.said and os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"biggan: {error}\n")
        sys.exit(error.exit_code)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A preset such as configs/digits.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in training.steps=1000.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved config and its cost; start nothing.")] = False,
    fresh: Annotated[bool, typer.Option(help="Refuse to go on in a run folder that is not empty.")] = False,
) -> None:
    """Train, or go on with, the run that a config describes.

    Run it again to resume. Under torchrun: torchrun --nproc_per_node N -m biggan train CONFIG ...

    Exit codes: 0 done, 2 bad input, 3 non-finite loss, 4 damaged data, 5 checkpoint not written,
    75 stopped by SIGTERM or SIGINT (run it again).
    """
    from biggan.distributed.process import world_size_from_environment
    from biggan.preset import resolve

    resolved = resolve(config, overrides or [])
    resolved.check_world_size(world_size_from_environment())
    if dry_run:
        _print_estimate(resolved, world_size_from_environment())
        if "://" not in resolved.data.path and not Path(resolved.data.path).is_dir():
            sys.stdout.write(f"data.path: {resolved.data.path} does not exist yet: not checked\n")
            return

    from biggan.data.dataset import check_trainable
    from biggan.data.loader import read_dataset
    from biggan.distributed.process import join

    dataset = read_dataset(resolved.data.path, resolved.data.allow_pipe)
    warnings = check_trainable(
        dataset, classes=resolved.model.classes, resolution=resolved.model.resolution, streams=resolved.data.streams
    )
    if dry_run:
        sys.stdout.writelines(f"warning: {warning}\n" for warning in warnings)
        return
    with join(resolved.distributed.timeout_seconds) as process:
        _train(resolved, dataset, process, fresh, warnings)


def _train(config: Config, dataset: Dataset, process: Process, fresh: bool, warnings: list[str]) -> None:
    from biggan import build
    from biggan.distributed.finite import FiniteGuard
    from biggan.training import checkpoint, run_folder
    from biggan.training.loop import Loop
    from biggan.training.state import TrainingState

    notes = [*(f"warning: {warning}" for warning in warnings), *config.notes()]
    _on_main(process, lambda: run_folder.prepare(config, dataset, fresh))
    root = run_folder.checkpoints(config.run.dir)
    newest = process.gather(_newest(root, notes) if process.is_main else None)[0]
    guard = FiniteGuard(process.device)
    state = TrainingState(build.gan(config, process, guard))
    cursors = build.first_cursors(config)
    if newest is not None:
        cursors = state.restore(checkpoint.load(newest))
        notes.append(f"going on from {newest}")
    notes.append(
        f"training {config.run.dir}: {dataset.splits['train'].images} images of {len(dataset.classes)} classes, "
        f"{process.world_size} process(es) on {process.device.type}, step {state.step} of {config.training.steps}"
    )
    loader = build.loader(config, dataset, process, cursors)
    report = _report(config, state.step, notes) if process.is_main else None
    loop = Loop(
        config=config,
        process=process,
        state=state,
        loader=loader,
        latents=build.latents(config, process),
        recipe=build.recipe(config, process),
        guard=guard,
        classes=dataset.classes,
        report=report,
    )
    try:
        with report or nullcontext():
            loop.run()
    except StoppedRun:
        process.barrier()  # rank 0 may still be closing its files; torchrun ends all when the first one ends
        raise
    if report is not None:
        report.say(f"done: step {state.step}. Pictures: {config.run.dir / 'samples'}  checkpoints: {root}")


def _newest(root: Path, notes: list[str]) -> Path | None:
    """The checkpoint to go on from; what damaged or interrupted ones left is moved out of its way."""
    from biggan.training import checkpoint

    checkpoint.clean_up(root)
    newest = checkpoint.newest_whole(root, notes.append)
    checkpoint.set_aside_after(root, -1 if newest is None else checkpoint.step_of(newest))
    return newest


def _on_main(process: Process, action: Callable[[], None]) -> None:
    """Run `action` on rank 0; bad input it finds ends every process with the same message."""
    message = None
    if process.is_main:
        try:
            action()
        except InputError as error:
            message = str(error)
    message = process.gather(message)[0]
    if message is not None:
        raise InputError(message)


def _report(config: Config, step: int, notes: list[str]) -> Report:
    import json

    from rich.console import Console

    from biggan.tracking import Tracker
    from biggan.training.metrics import Metrics
    from biggan.training.report import Report
    from biggan.training.run_folder import CONFIG, flatten

    console = Console(stderr=True)

    def say(message: str) -> None:
        console.print(message, highlight=False, markup=False, soft_wrap=True)

    for note in notes:
        say(note)
    tracker = None
    if config.tracking.mlflow:
        tracker = Tracker(config.run.dir, config.tracking.experiment, say)
        tracker.log_parameters(dict(flatten(json.loads(config.model_dump_json()))))
        tracker.log_file(config.run.dir / CONFIG)
    return Report(
        config.run.dir, console, Metrics(config.run.dir / "metrics.jsonl", step), tracker, config.training.steps
    )


def _print_estimate(config: Config, world_size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from biggan.estimate import estimate

    cost = estimate(config, world_size)
    console = Console()
    console.print(config.to_yaml(), highlight=False, markup=False, soft_wrap=True)
    for note in config.notes():
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    table = Table(title=f"one of {world_size} process{'es' if world_size > 1 else ''}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in (
        ("generator parameters", f"{cost.g_parameters:,}"),
        ("discriminator parameters", f"{cost.d_parameters:,}"),
        ("TFLOP per G iteration, all processes", f"{cost.tflop_per_step:.3f}"),
        ("images per G iteration (real ones D sees)", f"{config.training.batch_size * config.training.d_steps:,}"),
        ("weights, gradients, Adam, EMA", f"{cost.weights_gib:.2f} GiB"),
        ("activations of one micro-batch", f"{cost.activations_gib:.2f} GiB"),
        ("estimated memory", f"{cost.total_gib:.2f} GiB"),
    ):
        table.add_row(what, value)
    console.print(table)


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
