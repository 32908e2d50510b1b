import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from biggan.evaluation.inception_score import InceptionScore


def score_of(logits, splits, batch):
    score = InceptionScore(len(logits), logits.shape[1], splits)
    for first in range(0, len(logits), batch):
        score.add(first, logits[first : first + batch])
    return score.score()


@pytest.mark.parametrize("batch", [1, 17, 203])
@pytest.mark.parametrize("splits", [1, 3, 10])
def test_equals_torch_fidelity_however_images_come(splits, batch):
    """203 images: splits of unequal size, and batches that reach over their ends."""
    logits = torch.randn(203, 12, generator=torch.Generator().manual_seed(0)) * 4
    expected = isc_features_to_metric(logits, splits, shuffle=False)
    found = score_of(logits, splits, batch)
    assert found[0] == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-9, abs=1e-12)


def test_sure_predictions_count_the_classes_they_are_spread_over():
    """Sure of one of 7 classes each, equally often: 7, even where the others' probability is 0; of one only: 1."""
    logits = torch.full((70, 10), -torch.inf)
    logits[range(70), torch.arange(70) % 7] = 0
    assert score_of(logits, 2, 10) == (pytest.approx(7, rel=1e-12), pytest.approx(0, abs=1e-12))
    assert score_of(logits[::7], 1, 10) == (pytest.approx(1, rel=1e-12), 0)


def test_undecided_predictions_score_one():
    assert score_of(torch.full((40, 10), 3.0), 4, 8) == (pytest.approx(1, rel=1e-12), pytest.approx(0, abs=1e-12))


def test_the_order_of_batches_does_not_matter():
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    backwards = InceptionScore(60, 5, splits=4)
    for first in range(50, -1, -10):
        backwards.add(first, logits[first : first + 10])
    np.testing.assert_allclose(backwards.score(), score_of(logits, 4, 60), rtol=1e-12)


def test_an_image_that_is_missing_or_comes_twice_is_noticed():
    score = InceptionScore(20, 5, splits=2)
    score.add(0, torch.zeros(19, 5))
    with pytest.raises(AssertionError, match="not every image"):
        score.score()
    score.add(5, torch.zeros(1, 5))
    with pytest.raises(AssertionError, match="not every image"):
        score.score()
    with pytest.raises(AssertionError, match="more images"):
        score.add(19, torch.zeros(2, 5))
