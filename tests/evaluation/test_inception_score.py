import numpy as np
import pytest
import torch
from bounds import SUMS64
from torch_fidelity.metric_isc import isc_features_to_metric

from biggan.evaluation.inception_score import InceptionScore

pytestmark = pytest.mark.numeric


def score_of(logits, splits, batch):
    score = InceptionScore(len(logits), logits.shape[1], splits)
    for first in range(0, len(logits), batch):
        score.add(first, logits[first : first + batch])
    return score.score()


@pytest.mark.parametrize("batch", [1, 17, 203])
@pytest.mark.parametrize("splits", [1, 3, 10])
def test_equals_torch_fidelity_for_every_batch_size(splits, batch):
    """With 203 images splits have unequal sizes and batches cross their bounds."""
    logits = torch.randn(203, 12, generator=torch.Generator().manual_seed(0)) * 4
    expected = isc_features_to_metric(logits, splits, shuffle=False)
    found = score_of(logits, splits, batch)
    assert found[0] == pytest.approx(expected["inception_score_mean"], rel=SUMS64)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-9, abs=SUMS64)  # splits differ by 1 in 10


def test_certain_predictions_score_the_number_of_classes():
    """One-hot predictions spread evenly over 7 classes score 7, although other probabilities are 0; of one class, 1."""
    logits = torch.full((70, 10), -torch.inf)
    logits[range(70), torch.arange(70) % 7] = 0
    assert score_of(logits, 2, 10) == (pytest.approx(7, rel=SUMS64), pytest.approx(0, abs=SUMS64))
    assert score_of(logits[::7], 1, 10) == (pytest.approx(1, rel=SUMS64), 0)


def test_uniform_predictions_score_one():
    assert score_of(torch.full((40, 10), 3.0), 4, 8) == (pytest.approx(1, rel=SUMS64), pytest.approx(0, abs=SUMS64))


def test_order_of_batches_does_not_matter():
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    backwards = InceptionScore(60, 5, splits=4)
    for first in range(50, -1, -10):
        backwards.add(first, logits[first : first + 10])
    np.testing.assert_allclose(backwards.score(), score_of(logits, 4, 60), rtol=SUMS64)


def test_missing_and_duplicate_images_are_detected():
    score = InceptionScore(20, 5, splits=2)
    score.add(0, torch.zeros(19, 5))
    with pytest.raises(AssertionError, match="every image"):
        score.score()
    score.add(5, torch.zeros(1, 5))
    with pytest.raises(AssertionError, match="every image"):
        score.score()
    with pytest.raises(AssertionError, match="total_images"):
        score.add(19, torch.zeros(2, 5))
