"""`biggan eval` on one process of many: from what is asked for to tables, pictures and a file of results."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from biggan.data.dataset import Dataset
from biggan.data.stream import read_dataset
from biggan.distributed.peer_failure import naming_lost_processes, said_once
from biggan.distributed.process import Process, join
from biggan.errors import InputError
from biggan.evaluation import neighbours, sweep
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.extractors import Features, open_extractor
from biggan.evaluation.output_paths import check_places, default_out
from biggan.evaluation.reference_statistics import RealSplit
from biggan.evaluation.result import Result
from biggan.files import write_atomically
from biggan.generation.arguments import check_truncation
from biggan.generation.bulk import digest
from biggan.generation.load import open_generator
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.models.networks import Generator
from biggan.progress import Tick, silent
from biggan.runs import run_folder

TIMEOUT_SECONDS = 1800
"""The longest that processes wait for each other: rank 0 compares, or one has a shard more to look at."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked for."""

    source: str
    data: str
    truncations: tuple[float | None, ...]
    features: Features
    settings: Settings
    real_statistics: Path | None = None
    write_statistics: Path | None = None
    real_halves: bool = False
    out: Path | None = None
    neighbours: Path | None = None

    def __post_init__(self) -> None:
        for truncation in self.truncations:
            check_truncation(truncation, "--truncation")
        if len(set(self.truncations)) < len(self.truncations):
            raise InputError("--truncation: the same one twice; name each once")
        if self.real_statistics is not None and (self.real_halves or self.settings.per_class or self.write_statistics):
            raise InputError(
                "--real-statistics: a file of moments has no halves, no classes and nothing new to write; leave out "
                "--real-halves, --per-class and --write-statistics, or the file"
            )


def evaluate(request: EvaluationRequest, tick: Tick) -> None:
    """Measure, print, draw and write, together with the other processes; rank 0 calls `tick`.

    Raises the StoppedRun that ended it, on every process.
    """
    home = Path(request.source) if Path(request.source).is_dir() else Path(request.source.rpartition("@")[0])
    lost = (request.out.parent if request.out else home) / run_folder.LOST
    with join(TIMEOUT_SECONDS) as process, said_once(process), naming_lost_processes(process, lost):
        source = process.together(lambda: _open(request.source, process))
        out = request.out or default_out(source, request.features.name, request.settings, request.truncations)
        process.together(lambda: _check_places(request, out) if process.is_main else None)
        partials = out.with_name(f".{out.name}.partial")
        real = RealSplit(process.together(lambda: _read_data(request.data)), request.data)
        mine: Tick = tick if process.is_main else silent
        process.together(lambda: check_fits(source, real))
        extractor = open_extractor(request.features, real, process, mine)
        evaluator = Evaluator(real, extractor, request.settings, process, mine, request.real_statistics)
        results = measured(request, source, evaluator, partials)
        if process.is_main:
            _print(results)
        process.together(lambda: _write(request, evaluator, results, out) if process.is_main else None)
        if (path := request.neighbours) is not None:
            picture = neighbours_picture(request, source, evaluator)
            process.together(lambda: save_picture(picture, path, "--neighbours") if process.is_main else None)
        if process.is_main:
            shutil.rmtree(partials, ignore_errors=True)


def measured(
    request: EvaluationRequest, source: TrainedGenerator, evaluator: Evaluator, partials: Path
) -> list[Result]:
    """A result for each truncation. Collective."""
    halves = evaluator.real_halves() if request.real_halves else {}
    weights, results = digest(source.generator), []
    for truncation in request.truncations:
        result = evaluator.measure(_generator(request, source, truncation), truncation, partials)
        if request.settings.standing and truncation_key(truncation) in source.standing:
            result = replace(result, protocol=replace(result.protocol, statistics="standing (the export's own)"))
        result = replace(result, origin=source.origin, step=source.step, images_seen=source.images_seen)
        results.append(replace(result, generator=weights, real_halves=halves))
    return results


def _generator(request: EvaluationRequest, source: TrainedGenerator, truncation: float | None) -> Generator:
    return source.at(truncation) if request.settings.standing else source.generator


def neighbours_picture(request: EvaluationRequest, source: TrainedGenerator, evaluator: Evaluator) -> Image.Image:
    """Of samples at the first truncation, and the real images nearest to them. Collective."""
    truncation = request.truncations[0]
    numbers = neighbours.shown_numbers(len(source.classes))
    images, _ = evaluator.images(_generator(request, source, truncation), numbers, truncation)
    found = evaluator.nearest_real(images)
    return neighbours.picture(images.cpu().numpy(), found, [source.classes[k] for k in numbers])


def check_fits(source: TrainedGenerator, real: RealSplit) -> None:
    """Raise InputError if the generator was not made for this data set's resolution and classes."""
    dataset, generator = real.dataset, source.generator
    if generator.resolution != dataset.resolution:
        raise InputError(
            f"--data: {real.root} is packed at {dataset.resolution} px, {source.origin} makes "
            f"{generator.resolution} px; pack the images with --resolution {generator.resolution}"
        )
    if source.classes != dataset.classes:
        raise InputError(
            f"--data: {real.root} has classes {_named(dataset.classes)}, {source.origin} {_named(source.classes)}; "
            f"give the data set that it was trained on"
        )


def _named(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:3])
    return f"{shown}, ... ({len(classes)})" if len(classes) > 3 else shown


def _open(path: str, process: Process) -> TrainedGenerator:
    return open_generator(path, process.device, lambda message: sys.stderr.write(f"{message}\n"))


def _read_data(path: str) -> Dataset:
    try:
        return read_dataset(path, allow_pipe=False)
    except InputError as error:  # it names the config's key, and there is no config here
        raise InputError(f"--data: {str(error).removeprefix('data.path: ')}") from None


def _check_places(request: EvaluationRequest, out: Path) -> None:
    check_places(out, request.neighbours, request.write_statistics, sweep=len(request.truncations) > 1)


def _print(results: Sequence[Result]) -> None:
    console = Console()
    first = results[0]
    console.print(sweep.table(results))
    for metric, values in first.per_class.items():
        shown = sorted(values.items(), key=lambda item: item[1], reverse=metric == "fid")[:5]
        worst = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        console.print(f"{metric}, worst classes: {worst}", highlight=False, markup=False, soft_wrap=True)
    if first.held_out_accuracy is not None:
        said = f"the classifier reads {first.held_out_accuracy:.1%} of real images it was not trained on"
        console.print(said, highlight=False)
    for result in results:
        line = f"{result.origin}: {result.protocol.in_words()}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _write(request: EvaluationRequest, evaluator: Evaluator, results: Sequence[Result], out: Path) -> None:
    found = {"results": [result.as_json() for result in results]}
    try:
        write_atomically(out, json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--out: {out}: cannot be written ({error.strerror or error}); name another place") from None
    sys.stdout.write(f"{out}\n")
    if len(results) > 1:
        save_picture(sweep.picture(results), out.with_suffix(".png"), "--out")
    if (path := request.write_statistics) is not None:
        try:
            evaluator.write_statistics(path)
        except OSError as error:
            raise InputError(f"--write-statistics: {path}: cannot be written ({error.strerror or error})") from None
        sys.stdout.write(f"{path}\n")


def save_picture(picture: Image.Image, path: Path, flag: str) -> None:
    """Write a picture whose name `check_places` has accepted, completely or not at all; raises InputError."""
    encoded = io.BytesIO()
    picture.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        raise InputError(f"{flag}: {path}: cannot be written ({error.strerror or error}); name another place") from None
    sys.stdout.write(f"{path}\n")
