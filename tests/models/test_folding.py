"""Spectral norm folded into the weights: plain layers, the same network."""

import pytest
import torch
from bounds import IMAGES32

from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator
from biggan.models.folding import folded
from biggan.models.layers import SpectralNorm
from biggan.models.networks import initialize

pytestmark = pytest.mark.numeric


def networks(embedding: int = 4):
    torch.manual_seed(0)
    G = BigGANGenerator(32, 3, 5, 8, embedding, embedding > 0, attention=[16])
    D = BigGANDiscriminator(32, 3, 5, attention=[16])
    for network in (G, D):
        initialize(network, "orthogonal")
        for module in network.modules():
            if hasattr(module, "gamma"):
                module.gamma.data.fill_(0.7)  # at 0, its start, attention would do nothing
    z, y = torch.randn(6, 8), torch.randint(5, (6,))
    for _ in range(2):
        D(G(z, y).detach(), y)  # moves the vectors u and BatchNorm's statistics
    return G, D, z, y


@pytest.mark.parametrize("embedding", [4, 0])
@torch.no_grad()
def test_the_images_are_those_of_the_eager_generator_and_it_is_left_alone(embedding):
    G, _, z, y = networks(embedding)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    plain = folded(G)
    assert G.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
    assert (plain(z, y) - G.eval()(z, y)).abs().max() <= IMAGES32
    assert plain(z, y).std() > 0.05  # of images that are all alike any two networks would agree
    assert not any(isinstance(module, SpectralNorm) for module in plain.modules())
    assert plain.state_dict().keys() == {name for name in before if name.rpartition(".")[2] != "u"}


@torch.no_grad()
def test_discriminators_too():
    G, D, z, y = networks()
    x = G.eval()(z, y)
    torch.testing.assert_close(folded(D)(x, y), D.eval()(x, y), atol=IMAGES32, rtol=0)
    assert not any(isinstance(module, SpectralNorm) for module in folded(D).modules())


def test_folding_draws_no_random_numbers():
    G = networks()[0]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    folded(G)
    assert torch.equal(torch.random.get_rng_state(), before)
