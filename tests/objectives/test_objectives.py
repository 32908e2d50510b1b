import math

import pytest
import torch

from biggan.models.biggan import BigGANGenerator
from biggan.objectives.adversarial import d_hinge, d_logistic, g_linear, g_non_saturating
from biggan.objectives.weight_terms import orthogonal_penalty, orthogonal_weights

pytestmark = pytest.mark.numeric


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.5, 1.0])
    loss_real, loss_fake = d_hinge(real, fake)
    assert loss_real.item() == pytest.approx((0 + 0.5 + 2) / 3)
    assert loss_fake.item() == pytest.approx((0 + 0.5 + 2) / 3)
    assert g_linear(fake).item() == pytest.approx(2.5 / 3)


def test_non_saturating_losses_by_hand():
    real, fake = torch.tensor([0.0, 1.0]), torch.tensor([0.0, -2.0])
    loss_real, loss_fake = d_logistic(real, fake)
    assert loss_real.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-1))) / 2)
    assert loss_fake.item() == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)
    assert g_non_saturating(fake).item() == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_orthogonal_penalty_and_its_exact_gradient(memory_format):
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    w = weight.detach().flatten(1)
    off_diagonal = (w @ w.t()) * (1 - torch.eye(4, dtype=torch.float64))
    penalty = orthogonal_penalty([weight])
    assert penalty.item() == pytest.approx(off_diagonal.square().sum().item())
    penalty.backward()
    torch.testing.assert_close(weight.grad.flatten(1), 4 * off_diagonal @ w)


def test_orthogonal_rows_cost_nothing():
    assert orthogonal_penalty([torch.eye(3, 5) * 7]).item() == 0


def test_the_shared_embedding_is_not_regularized():
    G = BigGANGenerator(32, 4, 5, 8, 4, True)
    regularized = {id(p) for p in orthogonal_weights(G)}
    names = {name for name, p in G.named_parameters() if id(p) not in regularized and p.ndim >= 2}
    assert names == {"class_embedding.weight"}
