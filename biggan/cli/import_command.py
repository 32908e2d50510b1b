"""The command `biggan import`."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError, printable_line
from biggan.generation.arguments import parse_truncation

if TYPE_CHECKING:
    from biggan.importing.import_writer import ImportRequest
    from biggan.importing.imported_checkpoint import ImportedCheckpoint

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder, or with --config a file of tensors.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; must not exist.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value of the run's config.")]
Suffix = Annotated[str, typer.Option(help="Suffix of the reference code's files: copy0 reads G_copy0.pth.")]
ConfigFile = Annotated[Path | None, typer.Option(help="Config of the networks in a file of tensors with our names.")]
Data = Annotated[str | None, typer.Option(help="The packed data set for further training; gives the class names.")]
Classes = Annotated[Path | None, typer.Option(help="Text file with the class names, one per line.")]
Truncations = Annotated[str, typer.Option(help="Compute statistics for these; the samples use the first one.")]
License = Annotated[str, typer.Option("--license", help="The weights' license, as in mit.")]
Export = Annotated[bool, typer.Option("--export/--no-export", help="Write OUT/export, for sampling.")]


def import_checkpoint(
    source: Source,
    out: Out,
    overrides: Overrides = None,
    suffix: Suffix = "",
    config: ConfigFile = None,
    data: Data = None,
    classes: Classes = None,
    truncations: Truncations = "none,1,0.7,0.5",
    license_id: License = "unknown",
    export: Export = True,
) -> None:
    """Convert a published checkpoint: OUT/export for sampling and, if it has a D, a run for further training.

    Supported are folders of the reference PyTorch code (G.pth, D.pth, G_ema.pth, and optionally G_optim.pth,
    D_optim.pth, state_dict.pth), folders of the released BigGAN-deep generators (config.json, pytorch_model.bin), and
    files of tensors with our names (.pth, .pt, .bin, .safetensors) with --config. No code in them is ever run.

    Continue with: biggan train OUT/config.yaml data.path=DATASET training.steps=N
    """
    thresholds = dict.fromkeys(parse_truncation(part.strip(), "--truncations") for part in truncations.split(","))
    if out.exists():
        raise InputError(f"OUT: {out} already exists; delete it, or choose another folder")
    from biggan.data.stream import read_dataset
    from biggan.importing import detect
    from biggan.importing.import_check import class_names
    from biggan.importing.import_writer import ImportRequest

    dataset = None if data is None else read_dataset(data, allow_pipe=False)
    places = [f"run.dir={out}", *([] if data is None else [f"data.path={data}"])]
    imported = detect.read(source, suffix, config, overrides or [], places)
    if not export and not imported.is_run:
        raise InputError("--no-export: SOURCE has only a generator, so nothing would be written; remove the flag")
    names = class_names(imported.networks.classes, dataset, classes)
    _write(imported, ImportRequest(source, out, names, dataset, tuple(thresholds) if export else (), license_id))


def _write(imported: ImportedCheckpoint, request: ImportRequest) -> None:
    """Check the networks, then write OUT with progress and print a summary."""
    from biggan.distributed.process import this_device
    from biggan.importing import import_check, import_writer
    from biggan.progress import Meter

    if request.dataset is not None and imported.is_run:
        import_check.check_data_fits_networks(request.dataset, imported.networks)
    generator = import_check.checked_generator(imported, request.source).to(this_device())
    content = import_writer.content(imported, generator, request)
    task, done, batches = "standing statistics", itertools.count(1), content.batches if request.truncations else 0
    with Meter() as meter:
        if batches:
            meter(task, 0, batches)
        import_writer.write(imported, content, request, lambda: meter(task, next(done), batches))
    _print_summary(imported, request.out)


def _print_summary(imported: ImportedCheckpoint, out: Path) -> None:
    """Print the contents of the checkpoint and the commands to continue with."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from biggan.importing.imported_checkpoint import summary

    table = Table(show_header=False)
    for row in summary(imported):
        table.add_row(*(Text(printable_line(cell)) for cell in row))
    Console().print(table)
    sys.stdout.write(f"{out}\n")
