"""Gradient penalties against closed forms, float64 finite differences, and double backward written by hand."""

import pytest
import torch

from biggan.distributed.process import Process
from biggan.draws import Draws
from biggan.models.biggan import BigGANDiscriminator
from biggan.models.networks import normalization
from biggan.objectives.passes import FAKE, REAL, Judged, Pass, Samples, judge
from biggan.objectives.penalties import R1, R2, GradientPenalty, LeCam, LogitMeans, twice_differentiable
from biggan.training.turn import Recipe, Scheduled

pytestmark = pytest.mark.numeric
CPU = torch.device("cpu")
ALONE = Process(0, 1, CPU, None)


def draw(rows, update_index=0, rank=0, world_size=1):
    """Return the draw of one rank's slice of a micro-batch of `rows` rows."""
    return next(iter(Draws(3, 2, 4, rows, 1, rank, world_size, CPU)(5, update_index)))


def discriminator():
    """Return a float64 discriminator without spectral norm, with layer norm and attention that counts."""
    D = BigGANDiscriminator(32, 2, 4, [16], sn_eps=None, norm=normalization("layer", 1e-5)).double()
    torch.nn.init.constant_(D.attention["0"].gamma, 0.7)
    return D


def samples(rows=4):
    """Return fake and real rows in float64."""
    random = torch.Generator().manual_seed(1)
    x = torch.rand(2, rows, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1
    y = torch.randint(4, (rows,), generator=random)
    return Samples(x[0], y), Samples(x[1], y)


PENALTIES = {"r1": R1, "r2": R2, "gradient_penalty": GradientPenalty(1.0), "zero-centred": GradientPenalty(0.0)}


def through_the_seams(D, penalty):
    """Return the penalty as the step computes it: one joint forward over fake, real and extra rows."""
    turn = Recipe(1, 1, torch.autocast("cpu", enabled=False)).d_turn(1, 0)
    turn = type(turn)(**{**turn.__dict__, "terms": ((penalty, torch.tensor(1.0)),)})
    fake, real = samples()
    with turn.forward():
        judged = turn.judge(D, fake, real, draw(4))
    return penalty(judged)


def by_hand(D, name):
    """Return the penalty without our seams."""
    fake, real = samples()
    x = {"r1": real.images, "r2": fake.images}.get(name)
    if x is None:
        t = draw(4).uniform("gradient_penalty", 1, 1, 1).double()
        x = real.images + t * (fake.images - real.images)
    x = x.detach().clone().requires_grad_()
    with twice_differentiable(True):
        (gradient,) = torch.autograd.grad(D(x, real.labels).float().double().sum(), x, create_graph=True)
    norms = gradient.flatten(1).square().sum(1).sqrt()
    if name in ("r1", "r2"):
        return norms.square().mean() / 2
    return ((norms - (1.0 if name == "gradient_penalty" else 0.0)) ** 2).mean()


@pytest.mark.parametrize("name", PENALTIES)
def test_value_and_gradient_equal_a_double_backward_written_by_hand(name):
    """Logits are float32 in both: 1e-6 is a few of its roundings."""
    D = discriminator()
    found, expected = through_the_seams(D, PENALTIES[name]), by_hand(D, name)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    # A layer whose output only shifts the logit has no gradient in the penalty.
    weights = [p for p in D.parameters() if p.ndim >= 2]
    pairs = zip(*(torch.autograd.grad(v, weights, allow_unused=True) for v in (found, expected)), strict=True)
    for mine, other in pairs:
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * other.abs().max().item() + 1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_by_finite_differences(name):
    """Central differences along one direction of all weights: a step of 1e-5 has an error of 1e-10 relative to third
    derivatives of size 1, and float32 logits, of which only differences of the graph count, do not enter."""
    D = discriminator()
    weights = [p for p in D.parameters() if p.ndim >= 2]
    gradients = torch.autograd.grad(through_the_seams(D, PENALTIES[name]), weights, allow_unused=True)
    torch.manual_seed(2)
    direction = [torch.randn_like(p) * p.detach().norm() / p.numel() ** 0.5 for p in weights]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(d, alpha=sign * 1e-6)
        values.append(through_the_seams(D, PENALTIES[name]).item())
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.sub_(d, alpha=sign * 1e-6)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)


def test_gradient_penalty_of_a_linear_discriminator():
    """D(x) = <w, x>: the norm is ||w|| for every row, over all pixels and channels."""
    w = torch.randn(3, 4, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = GradientPenalty(1.0)
    rows = {penalty.name: Judged(x, None, (w * x).sum((1, 2, 3)), {})}
    assert penalty(Pass(rows, (penalty.name,), None)).item() == pytest.approx((w.norm().item() - 1) ** 2)


def test_interpolates_have_one_weight_per_sample_the_same_on_any_number_of_processes():
    fake, real = samples(6)
    whole = GradientPenalty(1.0).extra_rows(fake, real, draw(6)).images
    t = (whole - real.images) / (fake.images - real.images)
    torch.testing.assert_close(t, t[:, :1, :1, :1].expand_as(t))
    assert len(t[:, 0, 0, 0].unique()) == 6
    for world_size in (2, 3):
        parts = []
        for rank in range(world_size):
            mine = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
            part = [Samples(s.images[mine], s.labels[mine]) for s in (fake, real)]
            parts.append(GradientPenalty(1.0).extra_rows(*part, draw(6, rank=rank, world_size=world_size)).images)
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(draw(6, update_index=1).uniform("gradient_penalty"), draw(6).uniform("gradient_penalty"))


def test_interpolation_weights_are_uniform():
    """Over 10,000 rows the mean of uniform numbers has the deviation 0.003, their variance one of 0.00075."""
    t = draw(10_000).uniform("gradient_penalty")
    assert t.mean().item() == pytest.approx(0.5, abs=0.015)
    assert t.var().item() == pytest.approx(1 / 12, abs=0.004)
    assert 0 <= t.min() < 0.001
    assert 0.999 < t.max() < 1


def test_lecam_by_hand():
    """Averages from 0 with decay 0.5, then relu(real - m_fake)^2 + relu(m_real - fake)^2 (Tseng et al. 2021)."""
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([-4.0, 1.0])
    rows = {FAKE: Judged(None, None, fake, {}), REAL: Judged(None, None, real, {})}
    means = LogitMeans()
    value = LeCam(means, 0.5)(Pass(rows, (), draw(2)))
    m_real, m_fake = 0.25, -0.75
    assert (means.real.item(), means.fake.item()) == pytest.approx((m_real, m_fake))
    expected = ((2 - m_fake) ** 2 + 0) / 2 + ((m_real + 4) ** 2 + 0) / 2
    assert value.item() == pytest.approx(expected)
    LeCam(means, 0.5)(Pass({k: Judged(None, None, r.logits * torch.nan, {}) for k, r in rows.items()}, (), draw(2)))
    assert (means.real.item(), means.fake.item()) == pytest.approx((m_real, m_fake)), "a non-finite batch moves nothing"


def test_joint_forward_returns_every_kind_in_order():
    kinds = {name: Samples(torch.full((n, 1), float(k)), torch.full((n,), k)) for k, (name, n) in enumerate(SIZES)}
    seen = {}

    def D(images, labels, sizes, outputs):
        seen.update(sizes=sizes, outputs=outputs)
        return {"logits": images[:, 0] * 10 + labels, "double": images * 2}

    found = judge(D, kinds, ("double",))
    assert seen == {"sizes": (2, 3, 1), "outputs": ("double",)}
    for k, (name, n) in enumerate(SIZES):
        assert found[name][0].tolist() == [11.0 * k] * n
        assert found[name][1]["double"].shape == (n, 1)


SIZES = [(FAKE, 2), (REAL, 3), ("extra", 1)]


def test_lazy_terms_are_as_strong_on_average_and_weights_follow_their_schedule():
    for every in (1, 3, 16):
        term = Scheduled(R1, 0.5, every)
        weights = [due[1].item() if (due := term.due(1, k)) else 0.0 for k in range(48)]
        assert sum(weights) / 48 == pytest.approx(0.5)
        assert {k for k, w in enumerate(weights) if w} == set(range(0, 48, every))
