"""Where an evaluation writes: named after what was measured, and checked before hours of work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from biggan.errors import InputError
from biggan.evaluation.evaluate import Settings
from biggan.files import write_atomically
from biggan.generation.trained_generator import TrainedGenerator

PICTURES = (".png", ".jpg", ".jpeg")


def default_out(
    source: TrainedGenerator, features: str, settings: Settings, truncations: Sequence[float | None]
) -> Path:
    """RUN/evaluation/step_00001200-classifier-2000-images-t0.5.json; of an export, or a checkpoint by itself, a folder
    beside it.

    A threshold is named where there is one; of several, `sweep` stands for all. A seed but 0, and running
    statistics, are named too: `seed3`, `running`.
    """
    origin = Path(source.origin).resolve()
    folder = origin.with_name(f"{origin.name}-evaluation") if source.run is None else source.run / "evaluation"
    step = [] if source.step is None else [f"step_{source.step:08d}"]
    thresholds = [f"t{t:g}" for t in truncations if t is not None] if len(truncations) == 1 else ["sweep"]
    others = [*([f"seed{settings.seed}"] if settings.seed else []), *([] if settings.standing else ["running"])]
    images = f"{settings.num_images}-images"
    return folder / ("-".join([*step, features.replace(":", "-"), images, *thresholds, *others]) + ".json")


def check_places(out: Path, neighbours: Path | None, statistics: Path | None, sweep: bool) -> None:
    """Raise InputError, which names the flag, where one of the files cannot be written; makes their folders.

    With `sweep` there is a picture beside `out`.
    """
    check_file(out, "--out", (".json",))
    if statistics is not None:
        check_file(statistics, "--write-statistics", (".npz",))
    if neighbours is not None:
        check_file(neighbours, "--neighbours", PICTURES)
    if sweep:
        picture = out.with_suffix(".png")
        check_file(picture, "--out", PICTURES)
        if neighbours is not None and neighbours.absolute() == picture.absolute():
            raise InputError(f"--neighbours: {neighbours}: the sweep's picture goes there; name another file")


def check_file(path: Path, flag: str, suffixes: Sequence[str]) -> None:
    """Raise InputError unless a file of that name can be written; makes its folder, and leaves nothing else."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{flag}: {path}: not the name of a file that ends in {' or '.join(suffixes)}; name one")
    if path.is_dir():
        raise InputError(f"{flag}: {path}: is a folder; name a file")
    trial = path.with_name(f".{path.name}.trial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(trial, "")
        trial.unlink()
    except OSError as error:
        raise InputError(f"{flag}: {path}: cannot be written ({error.strerror or error}); name another place") from None
