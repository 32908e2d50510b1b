"""The result of an evaluation: metrics, and the protocol that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """Everything that the metrics depend on. Metrics of different protocols are not comparable.

    Values are written to results and checkpoints and compared for equality: do not reword them.
    """

    features: str
    """The extractor's name."""
    identity: str
    """The extractor's name, weights and preprocessing (`Extractor.identity`)."""
    preprocessing: str
    statistics: str
    """BatchNorm statistics: standing (with the number of batches, or an export's own) or running."""
    truncation: float | None
    num_images: int
    seed: int
    subset_images: int
    """Number of real rows, and equally of generated rows, used for KID and the manifold metrics."""
    real: str
    """Path of the real images, or the file of their statistics."""
    real_images: int
    """Number of real images; 0 if a file does not state it."""
    dataset_checksum: str
    resolution: int
    weights: str = "EMA"
    labels: str = "image k is of class k mod classes"

    def in_words(self) -> str:
        """Return one line that is printed with the metrics."""
        truncation = "no truncation" if self.truncation is None else f"truncation {self.truncation:g}"
        count = f"{self.real_images:,} real images" if self.real_images else "real statistics"
        rows = f"; KID and manifold metrics over {self.subset_images:,} of each" if self.subset_images else ""
        return (
            f"{self.features} features ({self.identity.split(' ')[1]}; {self.preprocessing}), {self.num_images:,} "
            f"images at {self.resolution} px, seed {self.seed}, {truncation}, {self.weights} weights, "
            f"{self.statistics} statistics, against {count} from {self.real}{rows}"
        )


@dataclass(frozen=True)
class Result:
    """Metrics by name, optionally metrics per class, and their protocol."""

    metrics: Mapping[str, float]
    """Metric -> value. Always fid, inception_score, inception_score_std. Except against a file of moments: kid, kid_std
    (only if a subset is smaller than all rows), precision, recall, density, coverage, and precision_inside_classes,
    recall_inside_classes (if there are several classes with 50 rows each). With classifier features: accuracy,
    accuracy_worst_class."""
    per_class: Mapping[str, Mapping[str, float]]
    """Metric -> class name -> value: fid (if requested), accuracy (with classifier features)."""
    protocol: Protocol
    held_out_accuracy: float | None = None
    """Accuracy of the classifier on held-out real images: the best accuracy to expect of generated ones."""
    origin: str = ""
    """Source of the generator: RUN@STEP, or the path of an export."""
    generator: str = ""
    """`biggan.generation.bulk.digest` of its weights, before standing statistics are computed."""
    step: int | None = None
    images_seen: int | None = None
    real_halves: Mapping[str, float] = field(default_factory=dict)
    """Metrics of one half of the real images against the other: the best attainable values."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)
