"""Neighbours inside classes: what precision and recall of all images together do not see."""

import pytest
import torch

from biggan.distributed.process import Process
from biggan.evaluation.feature_summary import Summary
from biggan.evaluation.measures import compare

CPU = torch.device("cpu")


def summary(rows, labels):
    """In two additions, as chunks come."""
    found, half = Summary(rows.shape[1], 0, lambda _: True, CPU), len(rows) // 2
    found.add(range(half), labels[:half], rows[:half])
    found.add(range(half, len(rows)), labels[half:], rows[half:])
    return found.combined(Process(0, 1, CPU, None))


def drawn(count, seed, classes=2):
    """Classes far apart, in turn."""
    labels = torch.arange(count) % classes
    rows = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return rows + 100 * labels[:, None], labels


def test_an_image_of_another_class_is_real_and_yet_not_precise():
    real, (rows, labels) = summary(*drawn(400, 0)), drawn(400, 1)
    right = compare(real, summary(rows, labels), CPU)
    asked = labels.clone()
    asked[:200] = 1 - labels[:200]  # the first half shows the other class
    wrong = compare(real, summary(rows, asked), CPU)
    for metric in ("precision", "recall", "density", "coverage"):
        assert wrong[metric] == right[metric]
    assert right["precision_inside_classes"] > 0.9
    assert wrong["precision_inside_classes"] == pytest.approx(right["precision_inside_classes"] / 2, abs=0.05)


def test_one_class_that_is_all_one_image_loses_its_recall():
    real, (rows, labels) = summary(*drawn(400, 0)), drawn(400, 1)
    right = compare(real, summary(rows, labels), CPU)
    rows[labels == 1] = rows[1].clone()
    found = compare(real, summary(rows, labels), CPU)
    assert found["recall_inside_classes"] == pytest.approx(right["recall_inside_classes"] / 2, abs=0.05)


@pytest.mark.parametrize(("count", "classes", "there"), [(100, 2, True), (99, 2, False), (100, 1, False)])
def test_not_of_few_images_nor_of_one_class(count, classes, there):
    real = summary(*drawn(400, 0, classes))
    found = compare(real, summary(*drawn(count, 1, classes)), CPU)
    assert ("precision_inside_classes" in found) == there
    assert "precision" in found


def test_kept_rows_keep_their_own_labels():
    rows, labels = drawn(90, 2, classes=4)
    found = Summary(4, 0, lambda number: number % 3 == 1, CPU)
    for start in (0, 30, 60):
        found.add(range(start, start + 30), labels[start : start + 30], rows[start : start + 30])
    whole = found.combined(Process(0, 1, CPU, None))
    assert torch.equal(whole.rows, rows[1::3])
    assert torch.equal(whole.labels, labels[1::3])
