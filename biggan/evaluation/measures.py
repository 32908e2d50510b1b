"""Every metric of two summaries."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from biggan.evaluation.distances import frechet_distance, kernel_distance
from biggan.evaluation.feature_summary import Summary
from biggan.evaluation.manifold import manifold

NEIGHBOURS = 5
"""The manifold's k, that of Naeem et al. 2020."""
LEAST_OF_A_CLASS = 50
"""Rows of each class, for neighbours inside it to say something."""


def compare(real: Summary, fake: Summary, device: torch.device) -> dict[str, float]:
    """FID, and, where rows of both are kept, KID and the manifold metrics, of as many rows of each.

    KID's deviation only where a subset is less than these rows.
    """
    found = {"fid": frechet_distance(real.moments, fake.moments)}
    size = compared_rows(real, fake)
    if size > NEIGHBOURS:
        a, b = (evenly(summary.rows, size).to(device) for summary in (real, fake))
        found["kid"], deviation = kernel_distance(a, b)
        if deviation is not None:
            found["kid_std"] = deviation
        found |= asdict(manifold(a, b, NEIGHBOURS))
    return found | inside_classes(real, fake, device)


def inside_classes(real: Summary, fake: Summary, device: torch.device) -> dict[str, float]:
    """Precision and recall of each class's rows among that class's alone, averaged over the classes.

    A deer that was asked for and came out as a good ship is near real images, but near no deer. Of as many rows of
    each; nothing of one class alone, or where a class has fewer than LEAST_OF_A_CLASS.
    """
    found = []
    for label in torch.cat([real.labels, fake.labels]).unique() if len(real.labels) else ():
        a, b = (summary.rows[summary.labels == label] for summary in (real, fake))
        size = min(len(a), len(b))
        if size < LEAST_OF_A_CLASS:
            return {}
        found.append(manifold(evenly(a, size).to(device), evenly(b, size).to(device), NEIGHBOURS))
    if len(found) < 2:
        return {}
    return {
        "precision_inside_classes": sum(of_class.precision for of_class in found) / len(found),
        "recall_inside_classes": sum(of_class.recall for of_class in found) / len(found),
    }


def compared_rows(real: Summary, fake: Summary) -> int:
    """How many rows of each are compared."""
    return min(len(real.rows), len(fake.rows))


def evenly(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows [n, d], evenly spaced."""
    return rows[torch.arange(count) * len(rows) // count]


def of_classes(real: Summary, fake: Summary, classes: tuple[str, ...]) -> dict[str, float]:
    """FID of each class that both have two images of."""
    pairs = zip(classes, real.of_class, fake.of_class, strict=True)
    return {name: frechet_distance(a, b) for name, a, b in pairs if min(a.count, b.count) >= 2}
