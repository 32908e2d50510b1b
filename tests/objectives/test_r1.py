"""R1 against closed forms, finite differences and double precision."""

import copy

import pytest
import torch

from biggan.models.biggan import BigGANDiscriminator
from biggan.models.layers import SpectralNorm, as_matrix
from biggan.objectives.passes import REAL, Judged, Pass
from biggan.objectives.penalties import R1, twice_differentiable

pytestmark = pytest.mark.numeric


def r1_penalty(logits, images):
    """Return R1 of real images and their logits."""
    return R1(Pass({REAL: Judged(images, None, logits, {})}, (REAL,), None))


def test_value_and_gradient_of_a_linear_discriminator():
    """D(x) = <w, x> has the gradient w everywhere: the penalty is ||w||^2 / 2, and its gradient w."""
    w = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((w * x).sum((1, 2, 3)), x)
    penalty.backward()
    assert penalty.item() == pytest.approx(w.square().sum().item() / 2)
    torch.testing.assert_close(w.grad, w.detach())


def test_value_and_gradient_of_a_quadratic_discriminator():
    """D(x) = a ||x||^2 / 2 has the gradient a x: the penalty is a^2 E||x||^2 / 2, and its derivative a E||x||^2."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(a * x.square().sum((1, 2, 3)) / 2, x)
    penalty.backward()
    mean = x.detach().square().sum((1, 2, 3)).mean().item()
    assert penalty.item() == pytest.approx(0.49 * mean / 2)
    assert a.grad.item() == pytest.approx(0.7 * mean)


def discriminator(dtype):
    """With attention that counts, in float64 from the same weights as in float32."""
    torch.manual_seed(0)
    D = BigGANDiscriminator(32, 4, 3, [16])
    torch.nn.init.constant_(D.attention["0"].gamma, 0.7)
    return D.to(dtype)


def penalty_and_gradient(D, autocast=False):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x = x.to(next(D.parameters()).dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), twice_differentiable(True):
        logits = D(x, torch.tensor([0, 1, 2, 0]))
    penalty = r1_penalty(logits.float() if autocast else logits, x)
    parameters = [p for p in D.parameters() if p.ndim >= 2]
    return penalty.item(), torch.autograd.grad(penalty, parameters)


def test_gradient_of_the_real_discriminator_by_finite_differences():
    """Through spectral norms, attention, pooling and projection, along one random direction of all weights."""
    D = discriminator(torch.float64).eval()
    for module in D.modules():  # at the exact vectors, sigma has no derivative through them
        if isinstance(module, SpectralNorm):
            module.u.copy_(torch.linalg.svd(as_matrix(module.weight.detach()))[0][:, 0])
    _, gradient = penalty_and_gradient(D)
    weights = [p for p in D.parameters() if p.ndim >= 2]
    torch.manual_seed(2)
    direction = [torch.randn_like(p) * p.detach().norm() / p.numel() ** 0.5 for p in weights]
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(D)
        with torch.no_grad():
            for p, d in zip((p for p in moved.parameters() if p.ndim >= 2), direction, strict=True):
                p.add_(d, alpha=sign * 1e-7)
        values.append(penalty_and_gradient(moved)[0])
    along = sum((g * d).sum().item() for g, d in zip(gradient, direction, strict=True))
    assert abs(along) > 1e-3
    # float64: values of size 1, rounded to 1e-15, over 2e-7; a step of 1e-7 leaves nothing of the third derivative.
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(along, rel=1e-4)


@pytest.mark.parametrize(
    ("memory_format", "autocast", "tolerance"),
    [
        (torch.contiguous_format, False, 1e-4),  # float32: a gradient of a gradient, 5e-7 was the most
        (torch.channels_last, False, 1e-4),
        (torch.channels_last, True, 0.1),  # bfloat16 has 3 digits
    ],
)
def test_single_and_half_precision_follow_double(memory_format, autocast, tolerance):
    exact, exact_gradient = penalty_and_gradient(discriminator(torch.float64))
    D = discriminator(torch.float32).to(memory_format=memory_format)
    value, gradient = penalty_and_gradient(D, autocast)
    assert value == pytest.approx(exact, rel=tolerance)
    for ours, theirs in zip(gradient, exact_gradient, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-9
