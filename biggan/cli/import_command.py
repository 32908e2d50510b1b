"""`biggan import`."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError
from biggan.generation.arguments import parse_truncation

if TYPE_CHECKING:
    from biggan.importing.imported_checkpoint import ImportedCheckpoint


def import_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A folder, or with --config a file of tensors.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; must not be there.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value of the run's config.")] = None,
    suffix: Annotated[str, typer.Option(help="Of the reference code's files: copy0 reads G_copy0.pth.")] = "",
    config: Annotated[Path | None, typer.Option(help="Of a file of tensors under our names: their networks.")] = None,
    data: Annotated[str | None, typer.Option(help="The packed data set to go on with; names the classes.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Text file: the classes' names, one a line.")] = None,
    truncations: Annotated[
        str, typer.Option(help="The export has statistics for these; the first is that of its samples.")
    ] = "none,1,0.7,0.5",
    license_id: Annotated[str, typer.Option("--license", help="The weights' licence, as in mit.")] = "unknown",
    export: Annotated[bool, typer.Option("--export/--no-export", help="Write OUT/export, to sample from.")] = True,
) -> None:
    """Turn a published checkpoint into ours: OUT/export to sample from, and where D is there too a run to go on with.

    Known are folders of the reference PyTorch code (G.pth, D.pth, G_ema.pth, and if there G_optim.pth, D_optim.pth,
    state_dict.pth), folders of the released BigGAN-deep generators (config.json, pytorch_model.bin), and files of
    tensors under our names (.pth, .pt, .bin, .safetensors) with --config. No code in them is ever run.

    Go on with: biggan train OUT/config.yaml data.path=DATASET training.steps=N
    """
    thresholds = dict.fromkeys(parse_truncation(part.strip(), "--truncations") for part in truncations.split(","))
    if out.exists():
        raise InputError(f"OUT: {out} is there already; remove it, or choose another")
    from biggan.data.stream import read_dataset
    from biggan.distributed.process import this_device
    from biggan.importing import detect, import_check, import_writer
    from biggan.importing.import_check import class_names
    from biggan.progress import Meter

    dataset = None if data is None else read_dataset(data, allow_pipe=False)
    places = [f"run.dir={json.dumps(str(out))}", *([] if data is None else [f"data.path={json.dumps(data)}"])]
    found = detect.read(source, suffix, config, overrides or [], places)
    if not export and not found.is_run:
        raise InputError("--no-export: of a generator alone nothing would be left; leave it out")
    names = class_names(found.networks.classes, dataset, classes)
    if dataset is not None and found.is_run:
        import_check.check_data(dataset, found.networks)
    generator = import_check.checked_generator(found, source).to(this_device())
    wanted = tuple(thresholds) if export else ()
    request = import_writer.ImportRequest(source, out, names, dataset, wanted, license_id)
    exported = import_writer.content(found, generator, request)
    what, done, batches = "standing statistics", itertools.count(1), exported.batches if export else 0
    with Meter() as meter:
        if batches:
            meter(what, 0, batches)
        import_writer.write(found, exported, request, lambda: meter(what, next(done), batches))
    _print(found, out)


def _print(found: ImportedCheckpoint, out: Path) -> None:
    """What was found, and what to do with it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from biggan.importing.imported_checkpoint import summary

    table = Table(show_header=False)
    for row in summary(found):
        table.add_row(*map(Text, row))
    Console().print(table)
    sys.stdout.write(f"{out}\n")
