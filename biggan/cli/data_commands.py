"""The commands `biggan pack` and `biggan data`."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.cli.output import check_printed
from biggan.cli.sample_command import save_image
from biggan.errors import printable_line

if TYPE_CHECKING:
    from biggan.data.dataset import Dataset
    from biggan.data.journal import PackedShard
    from biggan.data.pack import PackingJob


class Encoding(StrEnum):
    """File format of the images in shards."""

    png = "png"
    jpeg = "jpeg"


class Crop(StrEnum):
    """Methods of making images square."""

    centre = "centre"
    top = "top"
    pad = "pad"
    stretch = "stretch"


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A folder or zip of class folders, a parquet file or a folder of them, an LSUN LMDB, digits, or "
        "torchvision:NAME. Several sources are joined, and their classes matched by name.",
    ),
]
Dest = Annotated[Path, typer.Argument(metavar="DEST", help="Output folder for shards and dataset.json.")]
Pixels = Annotated[
    int, typer.Option(min=8, max=4096, help="Image size in pixels; training needs 32, 64, 128, 256 or 512.")
]
Labels = Annotated[
    str, typer.Option(metavar="FILE", help="Labels as CSV (path,label) or JSON; paths are relative to SOURCE.")
]
Merges = Annotated[
    list[str] | None, typer.Option(metavar="NAME=A,B", help="Merge classes A and B into NAME; repeatable.")
]
Chosen = Annotated[str, typer.Option(metavar="A,B", help="Pack only these classes, in this order.")]
OfSplit = Annotated[str, typer.Option(help="Split to read from parquet files or LMDBs.")]
Column = Annotated[str, typer.Option(help="Label column of parquet files.")]


def pack(
    source: Sources,
    dest: Dest,
    resolution: Pixels,
    labels: Labels = "",
    unconditional: Annotated[bool, typer.Option("--unconditional", help="Put all images into one class.")] = False,
    merge: Merges = None,
    classes: Chosen = "",
    balance: Annotated[bool, typer.Option("--balance", help="Repeat images until classes have equal size.")] = False,
    grey: Annotated[bool, typer.Option("--grey", help="Pack one channel; train with model.image_channels=1.")] = False,
    crop: Annotated[Crop, typer.Option(help="Method of making images square; pad adds black bars.")] = Crop.centre,
    val_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="Fraction of each class to hold out.")] = 0.0,
    encoding: Annotated[Encoding, typer.Option(help="png: lossless; jpeg: quality 95, 3x smaller.")] = Encoding.png,
    shards: Annotated[int, typer.Option(min=0, help="Training shards; 0: about 1,000 images each, 16 to 1024.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Packing processes; 0: one per CPU.")] = 0,
    split: OfSplit = "train",
    label_column: Column = "label",
    torchvision_root: Annotated[Path, typer.Option(help="Folder for torchvision's files and downloads.")] = Path(
        "data/torchvision"
    ),
) -> None:
    """Pack images into shards of square images. Run the same command again after an interruption."""
    from biggan.data import pack as packing
    from biggan.data.sources.selection import SelectionRequest, parse_merge, parse_names

    selection = SelectionRequest(
        tuple(source), labels=labels, unconditional=unconditional, split=split, label_column=label_column,
        merges=tuple(parse_merge(text) for text in merge or ()),
        classes=parse_names(classes, "--classes") if classes else (),
        torchvision_root=str(torchvision_root),
    )  # fmt: skip
    plan = packing.Plan(
        selection, resolution, encoding=encoding.value, val_fraction=val_fraction, shards=shards,
        crop=crop.value, channels=1 if grey else 3, balance=balance,
    )  # fmt: skip
    _run(packing.start_packing(plan, dest), workers or len(os.sched_getaffinity(0)))


def _run(job: PackingJob, workers: int) -> None:
    """Pack with a progress bar; print notes, skipped images and a summary."""
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
        console.print(printable_line(f"note: {note}"))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=job.images)
        printed: set[str] = set()

        def on_shard(shard: PackedShard) -> None:
            for path, reason in shard.skipped:
                if path not in printed:
                    console.print(printable_line(f"skipped {path}: {reason}"))
                    printed.add(path)
            progress.update(task, advance=shard.images + len(shard.skipped))

        dataset = job.run(workers, on_shard)
    if dataset.resolution not in (32, 64, 128, 256, 512):
        console.print(f"note: training supports 32, 64, 128, 256 or 512 px, not {dataset.resolution}")
    splits = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    console.print(
        f"{job.dest}: {dataset.images} images ({splits}) of {len(dataset.classes)} classes at {dataset.resolution} px"
        f"{', grey' * (dataset.channels == 1)}{', balanced' * dataset.balanced}; "
        f"{len(dataset.skipped)} unreadable skipped"
    )


def data(
    dataset_path: Annotated[Path, typer.Argument(metavar="DEST", help="A packed data set.")],
    out: Annotated[Path | None, typer.Option(help="Contact sheet file; default DEST/contact_sheet.png.")] = None,
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images per class.")] = 10,
    max_classes: Annotated[int, typer.Option(min=1, max=1000, help="Number of classes on the sheet.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every shard, and compare it with dataset.json.")
    ] = False,
) -> None:
    """Print the class histogram and write a contact sheet."""
    from rich.console import Console

    from biggan.data.dataset import check_trainable
    from biggan.data.preview import first_of_each_class
    from biggan.image_grid import grid

    dataset = _checked(dataset_path, verify)
    console = Console()
    names = [printable_line(name) for name in dataset.classes]
    widest, most = max(map(len, names)), max(dataset.class_counts)
    for name, count in zip(names, dataset.class_counts, strict=True):
        console.print(f"{name:>{widest}} {count:>8} {'█' * round(40 * count / most)}", highlight=False, markup=False)
    kind = ", grey" * (dataset.channels == 1) + ", balanced" * dataset.balanced
    console.print(f"{dataset.images} images, {dataset.resolution} px{kind}", highlight=False)
    own = {"classes": len(dataset.classes), "resolution": dataset.resolution, "image_channels": dataset.channels}
    for warning in check_trainable(dataset, **own, streams=1):
        console.print(printable_line(f"warning: {warning}"), highlight=False, markup=False, soft_wrap=True)
    rows, shown = first_of_each_class(dataset, str(dataset_path), per_class, max_classes)
    save_image(grid(rows, [dataset.classes[k] for k in shown]), out or dataset_path / "contact_sheet.png")
    check_printed()


def _checked(folder: Path, everything: bool) -> Dataset:
    """Return the data set whose shards are those of dataset.json; raise InputError if they are not.

    With `everything`, read every shard, count its labels, and list its file as verified in dataset.json.
    """
    import torch

    from biggan.data.dataset import FILE_NAME, load
    from biggan.data.preview import check_counts
    from biggan.data.verification import verified
    from biggan.distributed.process import Process
    from biggan.files import write_atomically
    from biggan.progress import Meter

    dataset = load(folder)
    alone = Process(rank=0, world_size=1, device=torch.device("cpu"), group=None)
    with Meter() as meter:
        dataset = verified(str(folder), dataset, set() if everything else set(dataset.verified), alone, meter)
        if not everything:
            return dataset
        check_counts(dataset, str(folder), meter)
    shards = list(dataset.shards)
    size = sum(shard.bytes for shard in shards)
    sys.stdout.write(f"{folder}: {len(shards)} shards, {size:,} bytes, are those of {FILE_NAME}\n")
    try:
        write_atomically(folder / FILE_NAME, dataset.to_json())
    except OSError as error:
        sys.stderr.write(f"{folder / FILE_NAME}: cannot be written ({error.strerror}), so this is not recorded\n")
    return dataset
