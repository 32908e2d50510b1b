"""`biggan pack`, `biggan data`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.cli.sample_command import save_picture

if TYPE_CHECKING:
    from biggan.data.journal import Packed
    from biggan.data.pack import Packing


class Encoding(StrEnum):
    """How images are stored in shards."""

    png = "png"
    jpeg = "jpeg"


class Crop(StrEnum):
    """How images become squares."""

    centre = "centre"
    top = "top"
    pad = "pad"
    stretch = "stretch"


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Folder of class folders, zip of one, parquet file or folder of them, LSUN's LMDB, digits, or "
        "torchvision:NAME; several are one data set, their classes matched by name.",
    ),
]
Dest = Annotated[Path, typer.Argument(metavar="DEST", help="Folder to write: shards and dataset.json.")]
Pixels = Annotated[int, typer.Option(min=8, max=4096, help="Pixels; training takes 32, 64, 128, 256 or 512.")]
Labels = Annotated[str, typer.Option(metavar="FILE", help="CSV (path,label) or JSON; paths are relative to SOURCE.")]
Merges = Annotated[list[str] | None, typer.Option(metavar="NAME=A,B", help="Make one class of several; repeatable.")]
Chosen = Annotated[str, typer.Option(metavar="A,B", help="Pack only these classes, in this order.")]
OfSplit = Annotated[str, typer.Option(help="Which split of parquet files or LMDBs.")]
Column = Annotated[str, typer.Option(help="Column of parquet files that holds the labels.")]


def pack(
    source: Sources,
    dest: Dest,
    resolution: Pixels,
    labels: Labels = "",
    unconditional: Annotated[bool, typer.Option("--unconditional", help="One class, whatever folders say.")] = False,
    merge: Merges = None,
    classes: Chosen = "",
    balance: Annotated[bool, typer.Option("--balance", help="Repeat images of small classes: equal sizes.")] = False,
    grey: Annotated[bool, typer.Option("--grey", help="One channel; train with model.image_channels=1.")] = False,
    crop: Annotated[Crop, typer.Option(help="How images become squares; pad: black bars.")] = Crop.centre,
    val_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="Share of each class that is held out.")] = 0.0,
    encoding: Annotated[Encoding, typer.Option(help="Lossless, or quality 95 at a third of the size.")] = Encoding.png,
    shards: Annotated[int, typer.Option(min=0, help="Training shards; 0: about 1,000 images each, 16 to 1024.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Packing processes; 0: one per CPU.")] = 0,
    split: OfSplit = "train",
    label_column: Column = "label",
    torchvision_root: Annotated[Path, typer.Option(help="Where torchvision finds or downloads its files.")] = Path(
        "data/torchvision"
    ),
) -> None:
    """Turn images into shards of squares. Run it again after an interruption."""
    from biggan.data import pack as packing
    from biggan.data.sources.selection import parse_merge, parse_names
    from biggan.data.sources.selection_request import SelectionRequest

    wanted = SelectionRequest(
        tuple(source), labels=labels, unconditional=unconditional, split=split, label_column=label_column,
        merges=tuple(parse_merge(text) for text in merge or ()),
        classes=parse_names(classes, "--classes") if classes else (),
        torchvision_root=str(torchvision_root),
    )  # fmt: skip
    plan = packing.Plan(
        wanted, resolution, encoding=encoding.value, val_fraction=val_fraction, shards=shards,
        crop=crop.value, channels=1 if grey else 3, balance=balance,
    )  # fmt: skip
    _run(packing.begin(plan, dest), workers or len(os.sched_getaffinity(0)))


def _run(job: Packing, workers: int) -> None:
    """Pack, with progress; say what was noticed, skipped and written."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for note in job.source.notes:
        console.print(f"note: {note}")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=job.images)
        said: set[str] = set()

        def on_shard(shard: Packed) -> None:
            for path, reason in shard.skipped:
                if path not in said:
                    console.print(f"skipped {path}: {reason}")
                    said.add(path)
            progress.update(task, advance=shard.images + len(shard.skipped))

        dataset = job.run(workers, on_shard)
    if dataset.resolution not in (32, 64, 128, 256, 512):
        console.print(f"note: the networks take 32, 64, 128, 256 or 512 px, not {dataset.resolution}")
    splits = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    console.print(
        f"{job.dest}: {dataset.images} images ({splits}) of {len(dataset.classes)} classes at {dataset.resolution} px"
        f"{', grey' * (dataset.channels == 1)}{', balanced' * dataset.balanced}; "
        f"{len(dataset.skipped)} unreadable skipped"
    )


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
    kind = ", grey" * (dataset.channels == 1) + ", balanced" * dataset.balanced
    console.print(f"{dataset.images} images, {dataset.resolution} px{kind}", highlight=False)
    itself = {"classes": len(dataset.classes), "resolution": dataset.resolution, "image_channels": dataset.channels}
    for warning in check_trainable(dataset, **itself, streams=1):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    rows, shown = first_of_each_class(dataset, str(dataset_path), per_class, max_classes)
    save_picture(grid(rows, [dataset.classes[k] for k in shown]), out or dataset_path / "contact_sheet.png")
