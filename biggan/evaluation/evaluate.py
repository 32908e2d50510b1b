"""Measures a generator on all processes: the same images, and the same numbers, on any number of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from biggan.data.dataset import checksum
from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.feature_summary import Summary, check_per_class
from biggan.evaluation.features import Extractor
from biggan.evaluation.inception_score import InceptionScore
from biggan.evaluation.measures import compare, compared_rows, of_classes
from biggan.evaluation.neighbours import Neighbours, nearest_real
from biggan.evaluation.partial import Partial, work_through
from biggan.evaluation.reference_statistics import RealSplit, read_statistics, real_summaries
from biggan.evaluation.result import Protocol, Result
from biggan.evaluation.tally import Tally
from biggan.generation.bulk import digest
from biggan.generation.sample import CHUNK_IMAGES, make_chunk
from biggan.generation.standing_stats import BATCH_IMAGES, BATCHES, standing_statistics
from biggan.generation.truncation import draw_latents
from biggan.models.networks import Generator
from biggan.progress import Tick

LEAST_IMAGES = 10
"""Fewer say nothing, and have no neighbours to compare."""
SCORE_SPLITS = 10


@dataclass(frozen=True)
class Settings:
    """What is measured, and how."""

    num_images: int = 50_000
    seed: int = 0
    standing: bool = True
    """BatchNorm statistics taken anew for the truncation; else those that the generator has."""
    subset_images: int = 10_000
    """Feature rows kept, at most, of real and of generated images: for KID, precision, recall (also inside classes),
    density, coverage."""
    per_class: bool = False
    """FID of each class too."""

    def __post_init__(self) -> None:
        if self.num_images < LEAST_IMAGES:
            raise InputError(f"--num-images: {self.num_images}; use at least {LEAST_IMAGES} (papers take 50000)")


class Evaluator:
    """Measures generators of one data set's classes in one extractor's features; the real statistics are taken once."""

    def __init__(
        self,
        real: RealSplit,
        extractor: Extractor,
        settings: Settings,
        process: Process,
        tick: Tick,
        real_statistics: Path | None = None,
    ):
        """Collective. `real_statistics` is a file of moments to use in place of the images'. Raises InputError."""
        if settings.per_class:
            check_per_class(extractor.dim, len(real.dataset.classes))
        self._images, self._extractor, self._settings = real, extractor, settings
        self._process, self._file = process, real_statistics
        self.tick = tick
        """Whom rank 0 tells how far it is."""
        if real_statistics is None:
            (self.real,) = self._real_parts(1)
        else:
            self.real = process.together(lambda: read_statistics(real_statistics, extractor, process.device))

    def _real_parts(self, parts: int) -> list[Summary]:
        s = self._settings
        return real_summaries(
            self._images, self._extractor, s.subset_images, s.per_class, parts, self._process, self.tick
        )

    def real_halves(self) -> dict[str, float]:
        """The metrics of every second real image against the others: what a perfect generator has. Collective."""
        first, second = self._real_parts(2)
        main, device = self._process.is_main, self._process.device
        found: dict[str, float] = self._process.gather(compare(first, second, device) if main else None)[0]
        return found

    def write_statistics(self, path: Path) -> None:
        """The real images' moments and whose features they are of, for `real_statistics`; raises OSError."""
        self.real.moments.to_npz(path, self._extractor.identity)

    def nearest_real(self, images: Tensor) -> Neighbours:
        """Of images uint8 [n, R, R, 3], on the device, among all the real images. Collective."""
        return nearest_real(images, self._images, self._extractor, self._process, self.tick)

    def __call__(self, generator: Generator, truncation: float | None = None, partials: Path | None = None) -> Result:
        """Measure images drawn at `truncation`; the generator, in whatever mode, is left as it is. Collective.

        With `partials`, a folder, an evaluation that was interrupted goes on from what it left there, and one that is
        done is not done again: remove the folder when the result is safe.
        """
        if self._settings.standing:
            return self.measure(standing_statistics(generator, truncation), truncation, partials)
        return self.measure(copy.deepcopy(generator).eval(), truncation, partials)

    def measure(self, generator: Generator, truncation: float | None, partials: Path | None = None) -> Result:
        """`__call__` of a generator in evaluation mode whose BatchNorm statistics are those to use. Collective."""
        partial = None
        if partials is not None:
            request = asdict(self._settings) | {
                "truncation": truncation, "generator": digest(generator), "features": self._extractor.identity,
            }  # fmt: skip
            partial = Partial(partials, request, self._process)
        tally = self._new_tally()
        chunks = self._chunks()

        def do(chunk: int) -> None:
            numbers = range(chunk * CHUNK_IMAGES, chunk * CHUNK_IMAGES + chunks[chunk])
            images, labels = self.images(generator, numbers, truncation)
            tally.add(numbers, labels, self._extractor(images))

        what = "generated images" if truncation is None else f"generated images, truncation {truncation:g}"
        self._process.together(lambda: work_through(what, chunks, do, tally, partial, self.tick))
        whole = tally.combined(self._process)
        result = self._process.gather(self._result(whole, truncation) if self._process.is_main else None)[0]
        assert isinstance(result, Result), "rank 0 has it"
        return result

    def _chunks(self) -> dict[int, int]:
        """This process's share: number of the chunk -> its images."""
        count, process = self._settings.num_images, self._process
        chunks = range(process.rank, -(-count // CHUNK_IMAGES), process.world_size)
        return {k: min(CHUNK_IMAGES, count - k * CHUNK_IMAGES) for k in chunks}

    def images(self, generator: Generator, numbers: Sequence[int], truncation: float | None) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, R, R, 3], on the device, and labels int64 [n], on the host, of at most CHUNK_IMAGES numbers.

        Image k depends on the seed, k and the truncation; its class is k mod classes.
        """
        seed = self._settings.seed
        z = torch.cat([draw_latents(range(k, k + 1), generator, truncation, seed) for k in numbers])
        labels = torch.tensor(numbers) % generator.classes
        device = self._process.device
        return make_chunk(generator, z.to(device), labels.to(device)), labels

    def _new_tally(self) -> Tally:
        s, classes = self._settings, len(self._images.dataset.classes)
        device, extractor = self._process.device, self._extractor
        kept = s.subset_images
        summary = Summary(extractor.dim, classes if s.per_class else 0, lambda n: n < kept, device)
        splits = min(SCORE_SPLITS, s.num_images)
        return Tally(summary, InceptionScore(s.num_images, extractor.logits, splits, device), classes)

    def _result(self, tally: Tally, truncation: float | None) -> Result:
        names, classifier = self._images.dataset.classes, self._extractor.held_out_accuracy
        metrics = compare(self.real, tally.summary, self._process.device)
        metrics["inception_score"], metrics["inception_score_std"] = tally.score.score()
        per_class: dict[str, dict[str, float]] = {}
        if self._settings.per_class and self._file is None:
            per_class["fid"] = of_classes(self.real, tally.summary, names)
        if classifier is not None:
            metrics["accuracy"] = int(tally.read.sum()) / int(tally.asked.sum())
            counts = zip(names, tally.read.tolist(), tally.asked.tolist(), strict=True)
            per_class["accuracy"] = {name: read / asked for name, read, asked in counts if asked}
            metrics["accuracy_worst_class"] = min(per_class["accuracy"].values())
        return Result(metrics, per_class, self._protocol(truncation, tally.summary), classifier)

    def _protocol(self, truncation: float | None, fake: Summary) -> Protocol:
        s, images, extractor = self._settings, self._images, self._extractor
        return Protocol(
            features=extractor.name,
            identity=extractor.identity,
            preprocessing=extractor.preprocessing,
            statistics=f"standing ({BATCHES} batches of {BATCH_IMAGES})" if s.standing else "running",
            truncation=truncation,
            num_images=s.num_images,
            seed=s.seed,
            subset_images=compared_rows(self.real, fake),
            real=str(self._file or f"{images.root} ({images.split})"),
            real_images=self.real.moments.count,
            dataset_checksum=checksum(images.dataset),
            resolution=images.dataset.resolution,
        )
