"""Output files of an evaluation: their default name, and checks that run before hours of work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from biggan.errors import InputError
from biggan.evaluation.evaluate import Settings
from biggan.files import write_atomically
from biggan.generation.trained_generator import TrainedGenerator

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def default_out(
    source: TrainedGenerator, features: str, settings: Settings, truncations: Sequence[float | None]
) -> Path:
    """Return, for example, RUN/evaluation/step_00001200-classifier-2000-images-t0.5.json.

    For an export, or a checkpoint outside a run, the folder is NAME-evaluation beside it. The name contains the
    truncation threshold if there is one, or `sweep` for several. A non-zero seed (`seed3`) and running statistics
    (`running`) are appended.
    """
    origin = Path(source.origin).resolve()
    folder = origin.with_name(f"{origin.name}-evaluation") if source.run is None else source.run / "evaluation"
    step = [] if source.step is None else [f"step_{source.step:08d}"]
    thresholds = [f"t{t:g}" for t in truncations if t is not None] if len(truncations) == 1 else ["sweep"]
    others = [*([f"seed{settings.seed}"] if settings.seed else []), *([] if settings.standing else ["running"])]
    images = f"{settings.num_images}-images"
    return folder / ("-".join([*step, features.replace(":", "-"), images, *thresholds, *others]) + ".json")


def check_output_paths(out: Path, neighbours: Path | None, statistics: Path | None, sweep: bool) -> None:
    """Raise InputError, which names the flag, if one of the files cannot be written. Create their folders.

    With `sweep` a figure is written beside `out`.
    """
    check_writable(out, "--out", (".json",))
    if statistics is not None:
        check_writable(statistics, "--write-statistics", (".npz",))
    if neighbours is not None:
        check_writable(neighbours, "--neighbours", IMAGE_SUFFIXES)
    if sweep:
        figure = out.with_suffix(".png")
        check_writable(figure, "--out", IMAGE_SUFFIXES)
        if neighbours is not None and neighbours.absolute() == figure.absolute():
            raise InputError(f"--neighbours: {neighbours}: the sweep's figure has the same name; name another file")


def check_writable(path: Path, flag: str, suffixes: Sequence[str]) -> None:
    """Raise InputError unless a file of that name can be written. Create its folder, and leave no other trace."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{flag}: {path}: does not end in {' or '.join(suffixes)}; name a file that does")
    if path.is_dir():
        raise InputError(f"{flag}: {path}: is a folder; name a file")
    trial = path.with_name(f".{path.name}.trial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(trial, "")
        trial.unlink()
    except OSError as error:
        raise InputError(f"{flag}: {path}: cannot be written ({error.strerror or error}); name another file") from None
