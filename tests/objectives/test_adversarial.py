"""Adversarial losses against closed forms, by hand and in float64."""

import math
from statistics import fmean

import pytest
import torch

from biggan.config.objective import LossName
from biggan.distributed.process import Process
from biggan.draws import Draws
from biggan.objectives.adversarial import LOSSES, LabelTargets, TargetLoss, logistic_rows, logit_statistics
from biggan.objectives.passes import FAKE, REAL, Judged, Pass

pytestmark = pytest.mark.numeric
ALONE = Process(0, 1, torch.device("cpu"), None)
REALS, FAKES = [2.0, 0.5, -1.0], [-3.0, -0.5, 1.0]


def draw(rows, step=1):
    """Return the draw of a micro-batch of `rows` rows."""
    return next(iter(Draws(0, 2, 3, rows, 1, 0, 1, torch.device("cpu"))(step, 0)))


def judged(real, fake, step=1):
    """Return a pass of these logits."""
    rows = {
        kind: Judged(torch.zeros(len(x), 1, 1, 1), torch.zeros(len(x), dtype=torch.long), torch.as_tensor(x), {})
        for kind, x in ((FAKE, fake), (REAL, real))
    }
    return Pass(rows, (), draw(len(real), step))


def softplus(x):
    return math.log1p(math.exp(x))


MEAN_REAL, MEAN_FAKE = fmean(REALS), fmean(FAKES)
EXPECTED = {
    "hinge": ((0 + 0.5 + 2) / 3 + (0 + 0.5 + 2) / 3, 2.5 / 3),
    "non_saturating": (
        fmean(softplus(-r) for r in REALS) + fmean(softplus(f) for f in FAKES),
        fmean(softplus(-f) for f in FAKES),
    ),
    "minimax": (
        fmean(softplus(-r) for r in REALS) + fmean(softplus(f) for f in FAKES),
        fmean(math.log(1 - 1 / (1 + math.exp(-f))) for f in FAKES),
    ),
    "least_squares": (
        fmean((r - 1) ** 2 / 2 for r in REALS) + fmean(f**2 / 2 for f in FAKES),
        fmean((f - 1) ** 2 / 2 for f in FAKES),
    ),
    "wasserstein": (MEAN_FAKE - MEAN_REAL, -MEAN_FAKE),
    "relativistic_average": (
        fmean(softplus(MEAN_FAKE - r) for r in REALS) + fmean(softplus(f - MEAN_REAL) for f in FAKES),
        fmean(softplus(r - MEAN_FAKE) for r in REALS) + fmean(softplus(MEAN_REAL - f) for f in FAKES),
    ),
    "relativistic_paired": (
        fmean(softplus(f - r) for r, f in zip(REALS, FAKES, strict=True)),
        fmean(softplus(r - f) for r, f in zip(REALS, FAKES, strict=True)),
    ),
}


@pytest.mark.parametrize("name", LossName.__args__)
def test_both_losses_by_hand(name):
    loss, found = LOSSES[name], judged(REALS, FAKES)
    d, g = EXPECTED[name]
    assert sum(loss.discriminator(found).values()).item() == pytest.approx(d)
    assert sum(loss.generator(found).values()).item() == pytest.approx(g)


def test_targets_of_one_and_zero_are_the_logistic_loss():
    real, fake = torch.randn(2, 50, dtype=torch.float64)
    plain, pair = LOSSES["non_saturating"], judged(real, fake)
    with_targets = TargetLoss(plain.d_loss, plain.g_loss, 0.0, logistic_rows, LabelTargets(1.0, 0.0, 0.0, 0.0))
    expected, found = plain.discriminator(pair), with_targets.discriminator(pair)
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-12)


def test_one_sided_smoothing_is_the_cross_entropy_to_the_target():
    x = torch.tensor([1.5], dtype=torch.float64)
    p = 1 / (1 + math.exp(-1.5))
    found = logistic_rows(x, torch.tensor([0.9], dtype=torch.float64)).item()
    assert found == pytest.approx(-(0.9 * math.log(p) + 0.1 * math.log(1 - p)), rel=1e-12)


def test_targets_are_flipped_and_noisy_as_often_and_as_far_as_the_keys_say():
    """Over 10,000 rows a share of 0.2 has the deviation 0.004, and uniform noise of 0.1 the mean 0 to 6e-4."""
    targets = LabelTargets(real=0.9, fake=-0.5, noise=0.1, flip=0.2)
    for kind, mine, other in (("real", 0.9, -0.5), ("fake", -0.5, 0.9)):
        found = targets.for_rows(kind, draw(10_000))
        flipped = (found - other).abs() < 0.7
        assert flipped.float().mean().item() == pytest.approx(0.2, abs=0.02)
        noise = torch.where(flipped, found - other, found - mine)
        assert noise.abs().max() <= 0.1 + 1e-6
        assert noise.mean().item() == pytest.approx(0, abs=3e-3)
        assert noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert not torch.equal(targets.for_rows("real", draw(100)), targets.for_rows("real", draw(100, step=2)))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.0, {"d_accuracy_real": 2 / 3, "d_accuracy_fake": 2 / 3}),
        (0.5, {"d_accuracy_real": 1 / 3, "d_accuracy_fake": 2 / 3}),
        (None, {"d_accuracy_pairs": 2 / 3}),
    ],
)
def test_accuracy_at_the_level_of_the_loss_or_in_pairs(level, expected):
    found = logit_statistics(judged(REALS, FAKES), level)
    accuracies = {name: value.item() for name, value in found.items() if "accuracy" in name}
    assert accuracies == pytest.approx(expected)
