import pytest
import torch
from bounds import FEW_OPERATIONS32

from biggan.families import G_WIDTHS
from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator
from biggan.models.biggan_deep import BigGANDeepDiscriminator, BigGANDeepGenerator, DeepDiscriminatorBlock
from biggan.models.layers import Layers, SpectralNorm, as_matrix
from biggan.models.networks import initialize, no_norm

pytestmark = pytest.mark.numeric


def deep(resolution, **settings):
    G = BigGANDeepGenerator(resolution, 8, 2, 3, 10, 4, [16], **settings)
    return G, BigGANDeepDiscriminator(resolution, 8, 2, 3, [16], **settings)


def plain(resolution, **settings):
    G = BigGANGenerator(resolution, 8, 3, 10, 0, False, [16], sn_eps=None, residual=False, **settings)
    return G, BigGANDiscriminator(resolution, 8, 3, [16], residual=False, **settings)


def residual(resolution, **settings):
    chunks = len(G_WIDTHS[resolution])
    G = BigGANGenerator(resolution, 8, 3, 2 * chunks, 4, True, [16, 32] if resolution > 32 else [16], **settings)
    return G, BigGANDiscriminator(resolution, 8, 3, [16], **settings)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("networks", [residual, deep, plain])
def test_shapes_and_every_parameter_has_a_gradient(networks, resolution, colours):
    G, D = networks(resolution, image_channels=colours)
    z, y = torch.randn(2, G.z_dim), torch.tensor([0, 2])
    images = G(z, y)
    assert images.shape == (2, colours, resolution, resolution)
    assert images.abs().max() <= 1
    logits = D(images, y)
    assert logits.shape == (2,)
    logits.sum().backward()
    for network in (G, D):
        missing = [name for name, p in network.named_parameters() if p.grad is None]
        assert not missing


def test_a_deep_generator_keeps_the_first_channels_on_its_shortcut():
    G = BigGANDeepGenerator(64, 4, 2, 2, 6, 4, sn_eps=None)
    block = G.blocks[5]  # the last of the third stage: 32 channels to 16, 16 px to 32
    block.conv4.weight.data.zero_()
    block.conv4.bias.data.zero_()
    x = torch.randn(2, 32, 16, 16)
    out = block.eval()(x, torch.randn(2, 10))
    assert torch.equal(out, x[:, :16].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_deep_discriminator_concatenates_a_convolution_to_its_shortcut():
    block = DeepDiscriminatorBlock(4, 12, Layers(None), no_norm, halving=True).eval()
    block.conv4.weight.data.zero_()
    block.conv4.bias.data.zero_()
    x = torch.randn(2, 4, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(x, 2)
    out = block(x)
    assert torch.equal(out[:, :4], pooled)
    assert torch.equal(out[:, 4:], block.conv_shortcut(pooled))


def test_one_class_is_no_condition_for_the_discriminator():
    G, D = BigGANGenerator(32, 2, 1, 8, 4, True), BigGANDiscriminator(32, 2, 1).eval()
    x = G(torch.randn(3, 8), torch.zeros(3, dtype=torch.long))
    h = torch.relu(D.features(x)).sum((2, 3))
    assert torch.equal(D(x, torch.zeros(3, dtype=torch.long)), D.linear(h).squeeze(1))


def test_without_spectral_norm_weights_are_applied_as_they_are():
    G = BigGANGenerator(32, 4, 2, 8, 4, False, [16], sn_eps=None)
    assert not any(isinstance(module, SpectralNorm) for module in G.modules())


def test_each_chunk_of_a_hierarchical_z_reaches_the_image():
    G = BigGANGenerator(32, 4, 2, 8, 4, True).eval()
    z, y = torch.randn(1, 8), torch.tensor([1])
    image = G(z, y)
    for chunk in range(4):
        moved = z.clone()
        moved[:, 2 * chunk] += 1
        assert not torch.equal(G(moved, y), image)


def test_initialisation():
    G = BigGANGenerator(32, 4, 2, 8, 4, True)
    initialize(G, "orthogonal")
    w = as_matrix(G.blocks[0].conv1.weight)
    torch.testing.assert_close(w @ w.t(), torch.eye(len(w)), rtol=0, atol=FEW_OPERATIONS32)
    initialize(G, "normal")
    values = torch.cat([p.flatten() for name, p in G.named_parameters() if "conv" in name and p.ndim == 4])
    # Thousands of draws: a standard error of 1% at most, and the seed is fixed.
    assert values.std().item() == pytest.approx(0.02, rel=0.05)
    assert values.mean().item() == pytest.approx(0, abs=0.001)
    initialize(G, "glorot")
    w = G.blocks[0].conv1.weight
    fan = 9 * (w.shape[0] + w.shape[1])
    assert w.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)
    assert w.abs().max().item() <= (6 / fan) ** 0.5
