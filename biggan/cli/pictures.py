"""`biggan sample`, and pictures written where a user wants them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


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
    shown = chosen_classes(classes, names)
    rows = generate_rows(generator, shown, per_class, truncation, seed, device)
    save_picture(grid(rows, [names[k] for k in shown]), out)


def chosen_classes(wanted: str, names: tuple[str, ...]) -> list[int]:
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


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write it and say where; InputError that names `--out` if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "use .png or .jpg"
        raise InputError(f"--out: {path}: cannot be written ({reason})") from None
    sys.stdout.write(f"{path}\n")
