"""`biggan pack`, `biggan data`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from biggan.cli.pictures import save_picture


class Encoding(StrEnum):
    """How images are stored in shards."""

    png = "png"
    jpeg = "jpeg"


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
    save_picture(grid(rows, [dataset.classes[k] for k in shown]), out or dataset_path / "contact_sheet.png")
