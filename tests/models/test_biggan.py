import pytest
import torch

from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator
from biggan.models.layers import as_matrix
from biggan.models.networks import initialize


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts_at_128_are_the_papers_codes():
    with torch.device("meta"):
        assert count(BigGANGenerator(128, 96, 1000, 120, 128, True, [64])) == 70_433_988
        assert count(BigGANDiscriminator(128, 96, 1000, [64])) == 87_982_370


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
def test_shapes_and_every_parameter_has_a_gradient(resolution):
    chunks = BigGANGenerator(resolution, 1, 3, 64, 4, False).chunks + {32: 3, 64: 4, 128: 5, 256: 6, 512: 7}[resolution]
    attention = [16, 32] if resolution > 32 else [16]
    G = BigGANGenerator(resolution, 8, 3, 2 * chunks, 4, True, attention)
    D = BigGANDiscriminator(resolution, 8, 3, [16])
    z, y = torch.randn(2, 2 * chunks), torch.tensor([0, 2])
    images = G(z, y)
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1
    logits = D(images, y)
    assert logits.shape == (2,)
    logits.sum().backward()
    for network in (G, D):
        missing = [name for name, p in network.named_parameters() if p.grad is None]
        assert not missing


def test_one_class_is_unconditional_data():
    G, D = BigGANGenerator(32, 2, 1, 8, 4, True), BigGANDiscriminator(32, 2, 1)
    z, y = torch.randn(3, 8), torch.zeros(3, dtype=torch.long)
    assert D(G(z, y), y).shape == (3,)


def test_each_chunk_of_a_hierarchical_z_reaches_the_image():
    G = BigGANGenerator(32, 4, 2, 8, 4, True).eval()
    z, y = torch.randn(1, 8), torch.tensor([1])
    image = G(z, y)
    for chunk in range(4):
        moved = z.clone()
        moved[:, 2 * chunk] += 1
        assert not torch.equal(G(moved, y), image)


def test_orthogonal_and_normal_initialisation():
    G = BigGANGenerator(32, 4, 2, 8, 4, True)
    initialize(G, "orthogonal")
    w = as_matrix(G.blocks[0].conv1.weight)
    torch.testing.assert_close(w @ w.t(), torch.eye(len(w)), rtol=0, atol=1e-5)
    initialize(G, "normal")
    values = torch.cat([p.flatten() for name, p in G.named_parameters() if "conv" in name and p.ndim == 4])
    assert values.std().item() == pytest.approx(0.02, rel=0.05)
    assert values.mean().item() == pytest.approx(0, abs=0.001)
