"""All metrics that compare the feature summaries of real and generated images."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from biggan.evaluation.distances import frechet_distance, kernel_distance
from biggan.evaluation.feature_summary import FeatureSummary
from biggan.evaluation.manifold import manifold

NEIGHBOURS = 5
"""Number of neighbours k for the manifold metrics, as in Naeem et al. 2020."""
MIN_CLASS_ROWS = 50
"""Minimum number of rows of each class for metrics inside classes to be meaningful."""


def compare(real: FeatureSummary, fake: FeatureSummary, device: torch.device) -> dict[str, float]:
    """Return FID and, if both summaries keep rows, KID and the manifold metrics over equally many rows of each.

    `kid_std` is present only if a subset is smaller than these rows.
    """
    metrics = {"fid": frechet_distance(real.moments, fake.moments)}
    size = compared_rows(real, fake)
    if size > NEIGHBOURS:
        a, b = (evenly_spaced_rows(summary.rows, size).to(device) for summary in (real, fake))
        metrics["kid"], deviation = kernel_distance(a, b)
        if deviation is not None:
            metrics["kid_std"] = deviation
        metrics |= asdict(manifold(a, b, NEIGHBOURS))
    return metrics | metrics_inside_classes(real, fake, device)


def metrics_inside_classes(real: FeatureSummary, fake: FeatureSummary, device: torch.device) -> dict[str, float]:
    """Return precision and recall of each class's rows against that class's rows alone, averaged over the classes.

    An image conditioned on "deer" that shows a good ship is near real images, but not near real deer. Each class
    compares equally many rows of both. Empty if there is only one class, or if a class has fewer than MIN_CLASS_ROWS.
    """
    of_class = []
    for label in torch.cat([real.labels, fake.labels]).unique() if len(real.labels) else ():
        a, b = (summary.rows[summary.labels == label] for summary in (real, fake))
        size = min(len(a), len(b))
        if size < MIN_CLASS_ROWS:
            return {}
        a, b = (evenly_spaced_rows(rows, size).to(device) for rows in (a, b))
        of_class.append(manifold(a, b, NEIGHBOURS))
    if len(of_class) < 2:
        return {}
    return {
        "precision_inside_classes": sum(metrics.precision for metrics in of_class) / len(of_class),
        "recall_inside_classes": sum(metrics.recall for metrics in of_class) / len(of_class),
    }


def compared_rows(real: FeatureSummary, fake: FeatureSummary) -> int:
    """Return the number of rows of each summary that `compare` uses for KID and the manifold metrics."""
    return min(len(real.rows), len(fake.rows))


def evenly_spaced_rows(rows: Tensor, count: int) -> Tensor:
    """Return `count` of the rows [n, d], evenly spaced."""
    return rows[torch.arange(count) * len(rows) // count]


def fid_of_classes(real: FeatureSummary, fake: FeatureSummary, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the FID of each class of which both summaries have at least two images."""
    pairs = zip(classes, real.class_moments, fake.class_moments, strict=True)
    return {name: frechet_distance(a, b) for name, a, b in pairs if min(a.count, b.count) >= 2}
