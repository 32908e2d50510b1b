"""Evaluation of a generator. Images and metrics do not depend on the number of processes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from biggan.config import Config
from biggan.data.dataset import Dataset, checksum
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.extractors import Features, open_extractor
from biggan.evaluation.feature_summary import FeatureSummary, GeneratedSummary, check_per_class
from biggan.evaluation.features import Extractor
from biggan.evaluation.inception_score import InceptionScore
from biggan.evaluation.measures import compare, compared_rows, fid_of_classes
from biggan.evaluation.neighbours import Neighbours, nearest_real
from biggan.evaluation.reference_statistics import RealSplit, read_statistics, real_summaries
from biggan.evaluation.result import Protocol, Result
from biggan.evaluation.resumable import PartialFile, process_units
from biggan.generation.bulk import digest
from biggan.generation.sample import CHUNK_IMAGES, make_chunk
from biggan.generation.standing_stats import BATCH_IMAGES, BATCHES, standing_statistics
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator
from biggan.progress import Tick

MIN_IMAGES = 10
"""Minimum number of images. With fewer, metrics mean nothing and the manifold metrics lack neighbours."""
SCORE_SPLITS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation. A hash of them names the files of unfinished work."""

    num_images: int = 50_000
    seed: int = 0
    standing: bool = True
    """Use standing BatchNorm statistics, computed for the truncation in use; otherwise the generator's own."""
    subset_images: int = 10_000
    """Maximum number of feature rows kept of real and of generated images, for KID, precision, recall (also inside
    classes), density and coverage."""
    per_class: bool = False
    """Also compute the FID of each class."""

    def __post_init__(self) -> None:
        if self.num_images < MIN_IMAGES:
            raise InputError(f"--num-images: {self.num_images}; use at least {MIN_IMAGES} (papers use 50000)")


class Evaluator:
    """Evaluation of generators against one data set in one extractor's features.

    The statistics of the real images are computed once, by the constructor.
    """

    def __init__(
        self,
        real: RealSplit,
        extractor: Extractor,
        settings: Settings,
        process: Process,
        tick: Tick,
        real_statistics: Path | None = None,
    ):
        """Compute the real statistics, or read their moments from the file `real_statistics`. Collective.

        Raises InputError.
        """
        if settings.per_class:
            check_per_class(extractor.dim, len(real.dataset.classes))
        self._real_split, self._extractor, self._settings = real, extractor, settings
        self._process, self._statistics_file = process, real_statistics
        self.tick = tick
        """Progress callback; rank 0 shows it."""
        if real_statistics is None:
            (self.real_summary,) = self._real_parts(1)
        else:
            self.real_summary = process.together(lambda: read_statistics(real_statistics, extractor, process.device))

    def _real_parts(self, parts: int) -> list[FeatureSummary]:
        s = self._settings
        return real_summaries(
            self._real_split, self._extractor, s.subset_images, s.per_class, parts, self._process, self.tick
        )

    def real_halves(self) -> dict[str, float]:
        """Return the metrics of one half of the real images against the other: a perfect generator's. Collective."""
        first, second = self._real_parts(2)
        main, device = self._process.is_main, self._process.device
        metrics: dict[str, float] = self._process.gather(compare(first, second, device) if main else None)[0]
        return metrics

    def write_statistics(self, path: Path) -> None:
        """Write the real images' moments and the features' identity, for `real_statistics`; raises OSError."""
        self.real_summary.moments.to_npz(path, self._extractor.identity)

    def nearest_real(self, images: Tensor) -> Neighbours:
        """Return the real images nearest to images uint8 [n, R, R, 3], which are on the device. Collective."""
        return nearest_real(images, self._real_split, self._extractor, self._process, self.tick)

    def __call__(self, generator: Generator, truncation: float | None = None, partials: Path | None = None) -> Result:
        """Evaluate images drawn at `truncation`. The generator, in either mode, is not changed. Collective.

        With a folder `partials`, an interrupted evaluation resumes from its files there, and a finished one is not
        repeated. Remove the folder once the result is saved.
        """
        if self._settings.standing:
            return self.measure(standing_statistics(generator, truncation), truncation, partials)
        return self.measure(copy.deepcopy(generator).eval(), truncation, partials)

    def measure(self, generator: Generator, truncation: float | None, partials: Path | None = None) -> Result:
        """Evaluate a generator in evaluation mode with the BatchNorm statistics that it has. Collective.

        `partials` as in `__call__`.
        """
        partial = None
        if partials is not None:
            request = asdict(self._settings) | {
                "truncation": truncation, "generator": digest(generator), "features": self._extractor.identity,
            }  # fmt: skip
            partial = PartialFile(partials, request, self._process)
        summary = self._new_summary()
        chunks = self._chunks()

        def generate_chunk(chunk: int) -> None:
            numbers = range(chunk * CHUNK_IMAGES, chunk * CHUNK_IMAGES + chunks[chunk])
            images, labels = self.generate(generator, numbers, truncation)
            summary.add(numbers, labels, self._extractor(images))

        description = "generated images" if truncation is None else f"generated images, truncation {truncation:g}"
        self._process.together(lambda: process_units(description, chunks, generate_chunk, summary, partial, self.tick))
        total = summary.combined(self._process)
        result = self._process.gather(self._result(total, truncation) if self._process.is_main else None)[0]
        assert isinstance(result, Result), "rank 0 computes the result"
        return result

    def _chunks(self) -> dict[int, int]:
        """Return this process's chunks: index of the chunk -> its number of images."""
        count, process = self._settings.num_images, self._process
        chunks = range(process.rank, -(-count // CHUNK_IMAGES), process.world_size)
        return {k: min(CHUNK_IMAGES, count - k * CHUNK_IMAGES) for k in chunks}

    def generate(self, generator: Generator, numbers: Sequence[int], truncation: float | None) -> tuple[Tensor, Tensor]:
        """Return images uint8 [n, R, R, 3], on the device, and labels int64 [n], on the host.

        `numbers` are the indices of at most CHUNK_IMAGES images. Image k depends on the seed, k and the truncation, and
        its class is k mod classes.
        """
        seed = self._settings.seed
        z = torch.cat([draw_latents(range(k, k + 1), generator, truncation, seed) for k in numbers])
        labels = torch.tensor(numbers) % generator.classes
        device = self._process.device
        return make_chunk(generator, z.to(device), labels.to(device)), labels

    def _new_summary(self) -> GeneratedSummary:
        s, classes = self._settings, len(self._real_split.dataset.classes)
        device, extractor = self._process.device, self._extractor
        kept = s.subset_images
        features = FeatureSummary(extractor.dim, classes if s.per_class else 0, lambda n: n < kept, device)
        splits = min(SCORE_SPLITS, s.num_images)
        return GeneratedSummary(features, InceptionScore(s.num_images, extractor.logits, splits, device), classes)

    def _result(self, fake: GeneratedSummary, truncation: float | None) -> Result:
        names, held_out_accuracy = self._real_split.dataset.classes, self._extractor.held_out_accuracy
        metrics = compare(self.real_summary, fake.features, self._process.device)
        metrics["inception_score"], metrics["inception_score_std"] = fake.score.score()
        per_class: dict[str, dict[str, float]] = {}
        if self._settings.per_class and self._statistics_file is None:
            per_class["fid"] = fid_of_classes(self.real_summary, fake.features, names)
        if held_out_accuracy is not None:
            metrics["accuracy"] = int(fake.class_correct.sum()) / int(fake.class_images.sum())
            counts = zip(names, fake.class_correct.tolist(), fake.class_images.tolist(), strict=True)
            per_class["accuracy"] = {name: correct / images for name, correct, images in counts if images}
            metrics["accuracy_worst_class"] = min(per_class["accuracy"].values())
        return Result(metrics, per_class, self._protocol(truncation, fake.features), held_out_accuracy)

    def _protocol(self, truncation: float | None, fake: FeatureSummary) -> Protocol:
        s, real, extractor = self._settings, self._real_split, self._extractor
        return Protocol(
            features=extractor.name,
            identity=extractor.identity,
            preprocessing=extractor.preprocessing,
            statistics=f"standing ({BATCHES} batches of {BATCH_IMAGES})" if s.standing else "running",
            truncation=truncation,
            num_images=s.num_images,
            seed=s.seed,
            subset_images=compared_rows(self.real_summary, fake),
            real=str(self._statistics_file or f"{real.root} ({real.split})"),
            real_images=self.real_summary.moments.count,
            dataset_checksum=checksum(real.dataset),
            resolution=real.dataset.resolution,
        )


def new_evaluator(config: Config, dataset: Dataset, process: Process, tick: Tick) -> Evaluator:
    """Return the evaluator for a run in training, from the run's config. Collective.

    Reads the extractor's weights, or trains the classifier, and computes the real statistics. Raises InputError on
    every process.
    """
    settings, real = config.evaluation, RealSplit(dataset, config.data.path.rstrip("/"))
    file = Path(settings.weights) if settings.weights else None
    inception = settings.features == "inception"
    features = Features(settings.features, None if inception else file, file if inception else None)
    extractor = open_extractor(features, real, process, tick)
    return Evaluator(real, extractor, Settings(num_images=settings.num_images), process, tick)
