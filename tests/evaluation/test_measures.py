"""Metrics inside classes detect faults that precision and recall of all images together miss."""

import pytest
import torch

from biggan.distributed.process import Process
from biggan.evaluation.feature_summary import FeatureSummary
from biggan.evaluation.measures import compare

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


CHANCE = 0.05
"""Half of 400 images changes its class: a share of 200 has a standard error of 0.03; the seed is fixed."""


def summary(rows, labels):
    """Summarize rows in two batches."""
    summarized, half = FeatureSummary(rows.shape[1], 0, lambda _: True, CPU), len(rows) // 2
    summarized.add(range(half), labels[:half], rows[:half])
    summarized.add(range(half, len(rows)), labels[half:], rows[half:])
    return summarized.combined(Process(0, 1, CPU, None))


def drawn(count, seed, classes=2):
    """Return rows of distant classes, and their alternating labels."""
    labels = torch.arange(count) % classes
    rows = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return rows + 100 * labels[:, None], labels


def test_images_of_another_class_lower_only_precision_inside_classes():
    real, (rows, labels) = summary(*drawn(400, 0)), drawn(400, 1)
    right = compare(real, summary(rows, labels), CPU)
    requested = labels.clone()
    requested[:200] = 1 - labels[:200]  # the first half shows the other class
    wrong = compare(real, summary(rows, requested), CPU)
    for metric in ("precision", "recall", "density", "coverage"):
        assert wrong[metric] == right[metric]
    assert right["precision_inside_classes"] > 0.9
    assert wrong["precision_inside_classes"] == pytest.approx(right["precision_inside_classes"] / 2, abs=CHANCE)


def test_mode_collapse_of_one_class_lowers_recall_inside_classes():
    real, (rows, labels) = summary(*drawn(400, 0)), drawn(400, 1)
    right = compare(real, summary(rows, labels), CPU)
    rows[labels == 1] = rows[1].clone()
    metrics = compare(real, summary(rows, labels), CPU)
    assert metrics["recall_inside_classes"] == pytest.approx(right["recall_inside_classes"] / 2, abs=CHANCE)


@pytest.mark.parametrize(("count", "classes", "present"), [(100, 2, True), (99, 2, False), (100, 1, False)])
def test_metrics_inside_classes_need_two_classes_of_50_images(count, classes, present):
    real = summary(*drawn(400, 0, classes))
    metrics = compare(real, summary(*drawn(count, 1, classes)), CPU)
    assert ("precision_inside_classes" in metrics) == present
    assert "precision" in metrics


def test_kept_rows_keep_their_own_labels():
    rows, labels = drawn(90, 2, classes=4)
    summarized = FeatureSummary(4, 0, lambda number: number % 3 == 1, CPU)
    for start in (0, 30, 60):
        summarized.add(range(start, start + 30), labels[start : start + 30], rows[start : start + 30])
    total = summarized.combined(Process(0, 1, CPU, None))
    assert torch.equal(total.rows, rows[1::3])
    assert torch.equal(total.labels, labels[1::3])
