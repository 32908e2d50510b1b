"""The outcome of an evaluation: numbers, and everything that makes them what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How the numbers came about; those of different protocols are not compared."""

    features: str
    """The extractor's name."""
    identity: str
    """Its name, weights and preprocessing; `biggan.evaluation.features`."""
    preprocessing: str
    statistics: str
    """BatchNorm's: standing, of so many batches or an export's own, or running."""
    truncation: float | None
    num_images: int
    seed: int
    subset_images: int
    """Rows of the real and as many of the generated images that KID and the manifold metrics are taken of."""
    real: str
    """Which real images, or which file of their statistics."""
    real_images: int
    """How many; 0 where a file does not say."""
    dataset_checksum: str
    resolution: int
    weights: str = "EMA"
    labels: str = "image k is of class k mod classes"

    def in_words(self) -> str:
        """One line, printed with the numbers."""
        cut = "no truncation" if self.truncation is None else f"truncation {self.truncation:g}"
        count = f"{self.real_images:,} real images" if self.real_images else "real statistics"
        rows = f"; KID and the rest of {self.subset_images:,} of each" if self.subset_images else ""
        return (
            f"{self.features} features ({self.identity.split(' ')[1]}; {self.preprocessing}), {self.num_images:,} "
            f"images at {self.resolution} px, seed {self.seed}, {cut}, {self.weights} weights, {self.statistics} "
            f"statistics, against {count} of {self.real}{rows}"
        )


@dataclass(frozen=True)
class Result:
    """Metrics by name, and per class where asked for."""

    metrics: Mapping[str, float]
    """fid, inception_score, inception_score_std; kid, kid_std, precision, recall, density, coverage (not against a file
    of moments; kid_std not of so few rows that a subset is all of them), precision_inside_classes,
    recall_inside_classes (where each of several classes has 50 rows); accuracy, accuracy_worst_class (with classifier
    features)."""
    per_class: Mapping[str, Mapping[str, float]]
    """Metric -> class name -> value: fid (where asked for), accuracy (with classifier features)."""
    protocol: Protocol
    held_out_accuracy: float | None = None
    """What the classifier reads of real images it was not trained on: the accuracy to hope for."""
    origin: str = ""
    """Of the generator: RUN@STEP, or an export's path."""
    generator: str = ""
    """`biggan.generation.bulk.digest` of its weights, before BatchNorm's statistics are taken anew."""
    step: int | None = None
    images_seen: int | None = None
    real_halves: Mapping[str, float] = field(default_factory=dict)
    """The metrics of one half of the real images against the other: what the numbers can at best come to."""

    def as_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)
