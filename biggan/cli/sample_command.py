"""`biggan sample`, and pictures written where a user wants them."""

from __future__ import annotations

import io
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.cli.class_arguments import chosen_classes, mixture, mixture_label
from biggan.errors import InputError
from biggan.files import write_atomically
from biggan.generation.arguments import InterpolatedInput, Interpolation, InterpolationPath, parse_truncation

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 20
"""Classes of a picture, unless they are named."""
TIMEOUT_SECONDS = 600


def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="RUN (newest), RUN@STEP, @best, @good, or an export.")],
    classes: Annotated[
        str, typer.Option(help="Names or numbers, comma-separated; default: up to 20, --num: all.")
    ] = "",
    per_class: Annotated[
        int | None, typer.Option(help="Images of each class, default 8; with --interpolate, strips, default 1.")
    ] = None,
    mix: Annotated[
        list[str] | None, typer.Option(help="A row of a mixture, as in cat=0.7,dog=0.3; may be repeated.")
    ] = None,
    interpolate: Annotated[
        InterpolatedInput | None, typer.Option(help="Strips: what changes from the first to the last.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Images of a strip.")] = 8,
    path: Annotated[
        InterpolationPath, typer.Option(help="How a strip goes: great circle or straight line.")
    ] = InterpolationPath.CIRCLE,
    num: Annotated[
        int | None, typer.Option("--num", "--num-images", help="Write so many files to --out, classes in turn.")
    ] = None,
    truncation: Annotated[
        str, typer.Option(help="Keep values of z within this, or none; smaller is truer, larger more varied.")
    ] = "none",
    standing: Annotated[
        bool,
        typer.Option("--standing/--running", help="BatchNorm statistics: anew for this truncation, or training's."),
    ] = True,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The picture, default samples.png; with --num, a folder or FILE.tar.")
    ] = None,
) -> None:
    """Draw from the averaged (EMA) generator: a grid, a row per class; strips; or many files.

    Many files, under torchrun too (which takes --num for an option of its own), and again after an interruption:
    torchrun --nproc_per_node N -m biggan sample RUN --num-images 50000 --out DIR
    """
    check_numbers({"--per-class": (per_class, 1), "--steps": (steps, 2), "--num": (num, 1)})
    threshold = parse_truncation(truncation, "--truncation")
    if num is not None:
        refuse_with("--num", {"--mix": mix, "--interpolate": interpolate, "--per-class": per_class})
        folder = check_folder(out)
        write_many(Drawer(run, threshold, standing, seed), classes, num, folder)
        return
    from biggan.distributed.process import is_first

    if not is_first():  # of the processes that torchrun started; one is enough for a picture
        return
    out = out or Path("samples.png")
    check_picture(out)
    if mix:
        refuse_with("--mix", {"--interpolate": interpolate, "--classes": classes})
        picture = draw_mixtures(Drawer(run, threshold, standing, seed), mix, per_class or 8)
    elif interpolate is not None:
        interpolation = Interpolation(interpolate, path, steps)
        picture = draw_strips(Drawer(run, threshold, standing, seed), classes, interpolation, per_class or 1)
    else:
        picture = draw_grid(Drawer(run, threshold, standing, seed), classes, per_class or 8)
    save_picture(picture, out)


class Drawer:
    """What every picture needs: the generator of `run` on this process's device, and what latents are drawn from."""

    def __init__(self, run: str, truncation: float | None, standing: bool, seed: int):
        from biggan.distributed.process import is_first, this_device
        from biggan.generation.load import open_generator

        self.truncation, self.standing, self.seed = truncation, standing, seed
        self.device = this_device()
        trained = open_generator(
            run, self.device, lambda message: sys.stderr.write(f"{message}\n") if is_first() else None
        )
        self.trained, self.names = trained.generator, trained.classes
        """With training's running statistics."""
        self.generator = trained.at(truncation) if standing else self.trained
        """With those that were asked for."""


def draw_grid(drawer: Drawer, classes: str, per_class: int) -> Image.Image:
    """One class per row."""
    from biggan.generation.sample import generate_rows
    from biggan.pictures import grid

    shown = chosen_classes(classes, drawer.names, MOST_ROWS)
    rows = generate_rows(drawer.generator, shown, per_class, drawer.truncation, drawer.seed, drawer.device)
    return grid(rows, [drawer.names[k] for k in shown])


def draw_mixtures(drawer: Drawer, mixtures: list[str], columns: int) -> Image.Image:
    """One mixture of classes per row."""
    from biggan.generation.interpolation import mix_classes
    from biggan.generation.sample import generate_rows
    from biggan.pictures import grid

    weights = [mixture(text, drawer.names) for text in mixtures]
    embeddings = mix_classes(drawer.generator, weights).cpu()
    rows = generate_rows(drawer.generator, embeddings, columns, drawer.truncation, drawer.seed, drawer.device)
    return grid(rows, [mixture_label(row, drawer.names) for row in weights])


def draw_strips(drawer: Drawer, classes: str, interpolation: Interpolation, per_pair: int) -> Image.Image:
    """One interpolation per row."""
    from biggan.generation.interpolation import class_pairs, interpolate
    from biggan.pictures import grid

    pairs = class_pairs(interpolation.over, chosen_classes(classes, drawer.names, MOST_ROWS))
    rows = interpolate(drawer.generator, interpolation, pairs, per_pair, drawer.truncation, drawer.seed, drawer.device)
    names = [drawer.names[a] if a == b else f"{drawer.names[a]} to {drawer.names[b]}" for a, b in pairs]
    return grid(rows, [name for name in names for _ in range(per_pair)])


def write_many(drawer: Drawer, classes: str, images: int, out: Path) -> None:
    """Many image files, on all processes, with progress on rank 0."""
    from biggan.distributed.peer_failure import naming_lost_processes
    from biggan.distributed.process import join
    from biggan.generation.bulk import BulkRequest, digest, write_images
    from biggan.generation.writers import output_at
    from biggan.progress import Meter, silent

    chosen = chosen_classes(classes, drawer.names, len(drawer.names))
    request = BulkRequest(
        generator=digest(drawer.trained),
        classes=tuple(drawer.names[k] for k in chosen),
        labels=tuple(chosen),
        images=images,
        truncation=drawer.truncation,
        seed=drawer.seed,
        standing=drawer.standing,
    )
    output = output_at(out, request)
    traces = Path(tempfile.gettempdir()) / "biggan-lost"
    with join(TIMEOUT_SECONDS) as process, naming_lost_processes(process, traces), Meter() as meter:
        write_images(drawer.generator, request, output, process, meter if process.is_main else silent)
    if process.is_main:
        sys.stdout.write(f"{out}\n")


def check_numbers(least: dict[str, tuple[int | None, int]]) -> None:
    """Raise InputError unless each flag's value is at least what it is to be."""
    for flag, (value, smallest) in least.items():
        if value is not None and value < smallest:
            raise InputError(f"{flag}: {value}; use {smallest} or more")


def refuse_with(flag: str, others: dict[str, object]) -> None:
    """Raise InputError if one of the other flags was given too."""
    for other, value in others.items():
        if value:
            raise InputError(f"{other}: means nothing with {flag}; leave one of them out")


def check_folder(out: Path | None) -> Path:
    """The place for many files; raises InputError, before any work, if it was not given or is of another kind."""
    if out is None:
        raise InputError("--num: where to? give --out FOLDER, or --out FILE.tar")
    if out.name.lower().endswith((".png", ".jpg", ".jpeg", ".zip", ".gz", ".tgz")):
        raise InputError(f"--out: {out}: --num writes a folder of PNG files, or a file that ends in .tar")
    return out


def check_picture(path: Path) -> None:
    """Raise InputError, before any work, if no picture can be written there."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out: {path}: no kind of picture that we write; use .png or .jpg, or --num for many files")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {path}: cannot be written ({error.strerror or error})") from None


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write it, completely or not at all, and say where; InputError that names `--out` if that cannot be."""
    check_picture(path)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    try:
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        with suppress(OSError):
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        raise InputError(f"--out: {path}: cannot be written ({error.strerror or error})") from None
    sys.stdout.write(f"{path}\n")
