"""The command `biggan sample`, parsing of its classes and mixtures, and writing of image files."""

from __future__ import annotations

import io
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biggan.errors import InputError
from biggan.files import write_atomically
from biggan.generation.arguments import (
    InterpolatedInput,
    Interpolation,
    InterpolationPath,
    class_number,
    parse_truncation,
)

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 20
"""Maximum number of rows of a grid without --classes."""
TIMEOUT_SECONDS = 600


Run = Annotated[str, typer.Argument(metavar="RUN", help="RUN (newest), RUN@STEP, RUN@best, RUN@good, or an export.")]
Classes = Annotated[str, typer.Option(help="Comma-separated names or numbers; default: up to 20, with --num all.")]
PerClass = Annotated[
    int | None, typer.Option(help="Images per class, default 8; with --interpolate: strips per pair, default 1.")
]
Mix = Annotated[list[str] | None, typer.Option(help="A row of a class mixture, as in cat=0.7,dog=0.3; repeatable.")]
Interpolate = Annotated[
    InterpolatedInput | None, typer.Option(help="Draw strips that interpolate this between their ends.")
]
Steps = Annotated[int, typer.Option(help="Images per strip.")]
PathOption = Annotated[InterpolationPath, typer.Option(help="Interpolation of z: great circle or straight line.")]
Num = Annotated[
    int | None, typer.Option("--num", "--num-images", help="Write this many files to --out, cycling through classes.")
]
Truncation = Annotated[
    str, typer.Option(help="Truncation threshold of z, or none; smaller gives fidelity, larger gives variety.")
]
Standing = Annotated[
    bool, typer.Option("--standing/--running", help="BatchNorm statistics: recomputed, or the running ones.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same images.")]
Out = Annotated[
    Path | None, typer.Option(help="The image file, default samples.png; with --num, a folder or FILE.tar.")
]


def sample(
    run: Run,
    classes: Classes = "",
    per_class: PerClass = None,
    mix: Mix = None,
    interpolate: Interpolate = None,
    steps: Steps = 8,
    path: PathOption = InterpolationPath.CIRCLE,
    num: Num = None,
    truncation: Truncation = "none",
    standing: Standing = True,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Sample from the EMA generator: a grid with a row per class, interpolation strips, or many files.

    Many files, also with torchrun, which has its own --num option; run it again after an interruption:
    torchrun --nproc_per_node N -m biggan sample RUN --num-images 50000 --out DIR
    """
    check_minimums({"--per-class": (per_class, 1), "--steps": (steps, 2), "--num": (num, 1)})
    threshold = parse_truncation(truncation, "--truncation")
    if num is not None:
        refuse_combination("--num", {"--mix": mix, "--interpolate": interpolate, "--per-class": per_class})
        write_many(required_output(out), SampleContext(run, threshold, standing, seed), classes, num)
        return
    from biggan.distributed.environment import global_rank

    if global_rank():  # under torchrun, one process draws the figure
        return
    out = out or Path("samples.png")
    check_image_path(out)
    if mix:
        refuse_combination("--mix", {"--interpolate": interpolate, "--classes": classes})
        figure = draw_mixtures(SampleContext(run, threshold, standing, seed), mix, per_class or 8)
    elif interpolate is not None:
        interpolation = Interpolation(interpolate, path, steps)
        figure = draw_strips(SampleContext(run, threshold, standing, seed), classes, interpolation, per_class or 1)
    else:
        figure = draw_grid(SampleContext(run, threshold, standing, seed), classes, per_class or 8)
    save_image(figure, out)


class SampleContext:
    """The generator of `run` on this process's device, and the settings that its latents are drawn with."""

    def __init__(self, run: str, truncation: float | None, standing: bool, seed: int):
        from biggan.distributed.environment import global_rank
        from biggan.distributed.process import this_device
        from biggan.generation.load import open_generator

        self.truncation, self.standing, self.seed = truncation, standing, seed
        self.device = this_device()
        trained = open_generator(
            run, self.device, lambda message: None if global_rank() else sys.stderr.write(f"{message}\n")
        )
        self.trained, self.names = trained.generator, trained.classes
        """Generator with the running statistics of training."""
        self.generator = trained.at(truncation) if standing else self.trained
        """Generator with the selected statistics."""


def draw_grid(context: SampleContext, classes: str, per_class: int) -> Image.Image:
    """Return a grid with one class per row."""
    from biggan.generation.sample import generate_rows
    from biggan.image_grid import grid

    shown = parse_classes(classes, context.names, MOST_ROWS)
    rows = generate_rows(context.generator, shown, per_class, context.truncation, context.seed, context.device)
    return grid(rows, [context.names[k] for k in shown])


def draw_mixtures(context: SampleContext, mixtures: list[str], columns: int) -> Image.Image:
    """Return a grid with one class mixture per row."""
    from biggan.generation.interpolation import mix_classes
    from biggan.generation.sample import generate_rows
    from biggan.image_grid import grid

    weights = [parse_mixture(text, context.names) for text in mixtures]
    embeddings = mix_classes(context.generator, weights).cpu()
    rows = generate_rows(context.generator, embeddings, columns, context.truncation, context.seed, context.device)
    return grid(rows, [mixture_label(row, context.names) for row in weights])


def draw_strips(context: SampleContext, classes: str, interpolation: Interpolation, per_pair: int) -> Image.Image:
    """Return a grid with one interpolation per row."""
    from biggan.generation.interpolation import class_pairs, interpolate
    from biggan.image_grid import grid

    pairs = class_pairs(interpolation.over, parse_classes(classes, context.names, MOST_ROWS))
    rows = interpolate(
        context.generator, interpolation, pairs, per_pair, context.truncation, context.seed, context.device
    )
    names = [context.names[a] if a == b else f"{context.names[a]} to {context.names[b]}" for a, b in pairs]
    return grid(rows, [name for name in names for _ in range(per_pair)])


def write_many(out: Path, context: SampleContext, classes: str, images: int) -> None:
    """Write `images` image files on all processes, with progress on rank 0."""
    from biggan.distributed.peer_failure import naming_lost_processes
    from biggan.distributed.process import join
    from biggan.generation.bulk import BulkRequest, digest, write_images
    from biggan.generation.writers import output_at
    from biggan.progress import Meter, silent

    labels = parse_classes(classes, context.names, len(context.names))
    request = BulkRequest(
        generator=digest(context.trained),
        classes=tuple(context.names[k] for k in labels),
        labels=tuple(labels),
        images=images,
        truncation=context.truncation,
        seed=context.seed,
        standing=context.standing,
    )
    output = output_at(out, request)
    traces = Path(tempfile.gettempdir()) / "biggan-lost"
    with join(TIMEOUT_SECONDS) as process, naming_lost_processes(process, traces), Meter() as meter:
        write_images(context.generator, request, output, process, meter if process.is_main else silent)
    if process.is_main:
        sys.stdout.write(f"{out}\n")


def parse_classes(text: str, names: tuple[str, ...], most: int) -> list[int]:
    """Return class numbers from comma-separated names or numbers; from empty text at most `most`, evenly spaced."""
    from biggan.image_grid import evenly_spaced

    if not text:
        return evenly_spaced(len(names), most)
    return [class_number(part.strip(), names, "--classes") for part in text.split(",")]


def parse_mixture(text: str, names: tuple[str, ...]) -> dict[int, float]:
    """Return weights by class number from `cat=0.7,dog=0.3`; raise InputError."""
    weights: dict[int, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        try:
            weight = float(number) if equals else math.nan
        except ValueError:
            weight = math.nan
        if not (weight >= 0 and math.isfinite(weight)):
            raise InputError(f"--mix: '{part.strip()}'; write NAME=WEIGHT, as in cat=0.7,dog=0.3, weights >= 0")
        k = class_number(name.strip(), names, "--mix")
        weights[k] = weights.get(k, 0) + weight
    if sum(weights.values()) == 0:
        raise InputError(f"--mix: '{text}': all weights are 0; give at least one class a weight above 0")
    return weights


def mixture_label(weights: dict[int, float], names: Sequence[str]) -> str:
    """Return a row label such as `70% cat, 30% dog`."""
    total = sum(weights.values())
    return ", ".join(f"{100 * weight / total:.3g}% {names[k]}" for k, weight in weights.items())


def check_minimums(flags: dict[str, tuple[int | None, int]]) -> None:
    """Raise InputError if a flag's value is below its minimum; the values are (value or None, minimum)."""
    for flag, (value, minimum) in flags.items():
        if value is not None and value < minimum:
            raise InputError(f"{flag}: {value}; use {minimum} or more")


def refuse_combination(flag: str, others: dict[str, object]) -> None:
    """Raise InputError if any of the other flags is set together with `flag`."""
    for other, value in others.items():
        if value:
            raise InputError(f"{other}: has no effect with {flag}; remove one of the two flags")


def required_output(out: Path | None) -> Path:
    """Return --out for --num; raise InputError, before any work, if it is missing or neither a folder nor a .tar."""
    if out is None:
        raise InputError("--num: needs an output; give --out FOLDER, or --out FILE.tar")
    if out.name.lower().endswith((".png", ".jpg", ".jpeg", ".zip", ".gz", ".tgz")):
        raise InputError(f"--out: {out}: --num writes a folder of PNG files or a .tar file; give FOLDER or FILE.tar")
    return out


def check_image_path(path: Path) -> None:
    """Raise InputError, before any work, if no image file can be written to `path`."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out: {path}: unsupported image format; use .png or .jpg, or --num for many files")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {path}: cannot be written ({error.strerror or error}); choose another path") from None


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image file atomically and print its path; raise InputError that names `--out`."""
    check_image_path(path)
    encoded = io.BytesIO()
    image.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    try:
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        with suppress(OSError):
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        raise InputError(f"--out: {path}: cannot be written ({error.strerror or error}); choose another path") from None
    sys.stdout.write(f"{path}\n")
