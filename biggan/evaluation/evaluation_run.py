"""`biggan eval` on each process: from the request to tables, figures and a file of results."""

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
from biggan.data.verification import verified
from biggan.distributed.peer_failure import naming_lost_processes, reported_once
from biggan.distributed.process import Process, join
from biggan.errors import InputError, printable_line
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.extractors import Features, open_extractor
from biggan.evaluation.neighbours import neighbour_grid, sample_indices
from biggan.evaluation.output_paths import check_output_paths, default_out
from biggan.evaluation.reference_statistics import RealSplit
from biggan.evaluation.result import Result
from biggan.evaluation.sweep import sweep_figure, table
from biggan.files import write_atomically
from biggan.generation.arguments import check_truncation
from biggan.generation.bulk import digest
from biggan.generation.load import open_generator
from biggan.generation.trained_generator import TrainedGenerator, truncation_key
from biggan.models.networks import Generator
from biggan.progress import Tick, silent
from biggan.runs import run_folder

TIMEOUT_SECONDS = 1800
"""Timeout of collectives: the others wait while rank 0 compares, or while one process reads an extra shard."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Arguments of `biggan eval`."""

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
            raise InputError("--truncation: the same value twice; give each value once")
        if self.real_statistics is not None and (self.real_halves or self.settings.per_class or self.write_statistics):
            raise InputError(
                "--real-statistics: not with --real-halves, --per-class or --write-statistics, which need the real "
                "images; leave out those flags, or the file"
            )


def evaluate(request: EvaluationRequest, tick: Tick) -> None:
    """Evaluate, print the results and write the files, together with the other processes; rank 0 calls `tick`.

    If a process fails, raises the StoppedRun on every process.
    """
    home = Path(request.source) if Path(request.source).is_dir() else Path(request.source.rpartition("@")[0])
    lost = (request.out.parent if request.out else home) / run_folder.LOST
    with join(TIMEOUT_SECONDS) as process, reported_once(process), naming_lost_processes(process, lost):
        source = process.together(lambda: _open(request.source, process))
        out = request.out or default_out(source, request.features.name, request.settings, request.truncations)
        process.together(lambda: _check_output_paths(request, out) if process.is_main else None)
        partials = out.with_name(f".{out.name}.partial")
        own_tick: Tick = tick if process.is_main else silent
        dataset = process.together(lambda: _read_data(request.data))
        real = RealSplit(verified(request.data, dataset, set(dataset.verified), process, own_tick), request.data)
        process.together(lambda: check_compatible(source, real))
        extractor = open_extractor(request.features, real, process, own_tick)
        evaluator = Evaluator(real, extractor, request.settings, process, own_tick, request.real_statistics)
        results = measure_all(request, source, evaluator, partials)
        if process.is_main:
            _print_results(results)
        process.together(lambda: _write_results(request, evaluator, results, out) if process.is_main else None)
        if (path := request.neighbours) is not None:
            figure = neighbours_figure(request, source, evaluator)
            process.together(lambda: save_figure(figure, path, "--neighbours") if process.is_main else None)
        if process.is_main:
            shutil.rmtree(partials, ignore_errors=True)


def measure_all(
    request: EvaluationRequest, source: TrainedGenerator, evaluator: Evaluator, partials: Path
) -> list[Result]:
    """Return a result for each truncation. Collective."""
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


def neighbours_figure(request: EvaluationRequest, source: TrainedGenerator, evaluator: Evaluator) -> Image.Image:
    """Draw samples at the first truncation beside the real images nearest to them. Collective."""
    truncation = request.truncations[0]
    numbers = sample_indices(len(source.classes))
    images, _ = evaluator.generate(_generator(request, source, truncation), numbers, truncation)
    neighbours = evaluator.nearest_real(images)
    return neighbour_grid(images.cpu().numpy(), neighbours, [source.classes[k] for k in numbers])


def check_compatible(source: TrainedGenerator, real: RealSplit) -> None:
    """Raise InputError if the generator has another resolution or other classes than the data set."""
    dataset, generator = real.dataset, source.generator
    if generator.resolution != dataset.resolution:
        raise InputError(
            f"--data: {real.root} is packed at {dataset.resolution} px, but {source.origin} generates "
            f"{generator.resolution} px; pack the images with --resolution {generator.resolution}"
        )
    if source.classes != dataset.classes:
        raise InputError(
            f"--data: {real.root} has classes {_list_classes(dataset.classes)}, but {source.origin} has "
            f"{_list_classes(source.classes)}; name the data set that it was trained on"
        )


def _list_classes(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:3])
    return f"{shown}, ... ({len(classes)})" if len(classes) > 3 else shown


def _open(path: str, process: Process) -> TrainedGenerator:
    return open_generator(path, process.device, lambda message: sys.stderr.write(f"{message}\n"))


def _read_data(path: str) -> Dataset:
    try:
        return read_dataset(path, allow_pipe=False)
    except InputError as error:  # its message names the config key, and this command has no config
        raise InputError(f"--data: {str(error).removeprefix('data.path: ')}") from None


def _check_output_paths(request: EvaluationRequest, out: Path) -> None:
    check_output_paths(out, request.neighbours, request.write_statistics, sweep=len(request.truncations) > 1)


def _print_results(results: Sequence[Result]) -> None:
    console = Console()
    first = results[0]
    console.print(table(results))
    for metric, values in first.per_class.items():
        shown = sorted(values.items(), key=lambda item: item[1], reverse=metric == "fid")[:5]
        worst = ", ".join(f"{name} {value:.4g}" for name, value in shown)
        console.print(
            printable_line(f"{metric}, worst classes: {worst}"), highlight=False, markup=False, soft_wrap=True
        )
    if first.held_out_accuracy is not None:
        message = f"the classifier has accuracy {first.held_out_accuracy:.1%} on held-out real images"
        console.print(message, highlight=False)
    for result in results:
        line = f"{result.origin}: {result.protocol.in_words()}"
        console.print(printable_line(line), highlight=False, markup=False, soft_wrap=True)


def _write_results(request: EvaluationRequest, evaluator: Evaluator, results: Sequence[Result], out: Path) -> None:
    content = {"results": [result.as_json() for result in results]}
    try:
        write_atomically(out, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--out: {out}: cannot be written ({error.strerror or error}); name another file") from None
    sys.stdout.write(f"{out}\n")
    if len(results) > 1:
        save_figure(sweep_figure(results), out.with_suffix(".png"), "--out")
    if (path := request.write_statistics) is not None:
        try:
            evaluator.write_statistics(path)
        except OSError as error:
            raise InputError(
                f"--write-statistics: {path}: cannot be written ({error.strerror or error}); name another file"
            ) from None
        sys.stdout.write(f"{path}\n")


def save_figure(figure: Image.Image, path: Path, flag: str) -> None:
    """Write a figure atomically; `check_output_paths` has accepted its name. Raises InputError."""
    encoded = io.BytesIO()
    figure.save(encoded, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, encoded.getvalue())
    except OSError as error:
        raise InputError(f"{flag}: {path}: cannot be written ({error.strerror or error}); name another file") from None
    sys.stdout.write(f"{path}\n")
