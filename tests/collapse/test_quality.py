"""Signals from images, on networks with known values; the networks are not modified."""

import math

import pytest
import torch
from torch import nn

from biggan.collapse.quality import (
    PER_CLASS,
    FixedBatch,
    QualityProbe,
    RealImages,
    distances,
    gradient_norm,
    mean_distance,
    steepness,
)
from biggan.distributed.process import Process

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
ALONE = Process(rank=0, world_size=1, device=CPU, group=None)
R = 16


class Linear(nn.Module):
    """z [N, 5] -> images, linear in z; `scale` 0 ignores z."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.map = nn.Linear(5, 3 * R * R)
        self.map.weight.data *= scale
        self.noise = nn.BatchNorm1d(5)  # in training mode it would update, and change the images

    def forward(self, z, y):
        return (self.map(self.noise(z)) + y[:, None]).unflatten(1, (3, R, R))


class Threshold(nn.Module):
    """Images -> the mean pixel: positive for bright ones."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, y):
        return self.gain * x.mean((1, 2, 3))


def real(bright, dark):
    images = torch.cat([torch.full((bright, 3, R, R), 255), torch.zeros(dark, 3, R, R)]).to(torch.uint8)
    return RealImages(images, torch.zeros(bright + dark, dtype=torch.long))


def probe(train, held_out):
    return QualityProbe(classes=3, z_dim=5, seed=0, process=ALONE, train=train, held_out=held_out)


def test_accuracy_is_the_fraction_of_real_images_with_a_positive_logit():
    found = probe(real(30, 10), real(5, 15)).measure(Linear(), Linear(), Threshold(), 0.0)
    assert found["d_accuracy_train"] == 0.75
    assert found["d_accuracy_held_out"] == 0.25
    assert "d_accuracy_held_out" not in probe(real(3, 3), real(0, 0)).measure(Linear(), Linear(), Threshold(), 0.0)


def test_a_generator_that_ignores_z_has_diversity_0_and_only_duplicates():
    torch.manual_seed(0)
    found = probe(real(5, 5), real(0, 0)).measure(Linear(), Linear(scale=0.0), Threshold(), 0.0)
    assert (found["diversity/ema"], found["duplicates/ema"]) == (0, 1)
    assert found["diversity/generator"] > 0.01
    wide = probe(real(5, 5), real(0, 0)).measure(Linear(scale=30), Linear(scale=60), Threshold(), 0.0)
    assert wide["diversity/ema"] > 1.2 * wide["diversity/generator"]
    assert wide["duplicates/generator"] == 0


def test_nan_images_count_as_duplicates():
    broken = Linear()
    broken.map.weight.data.fill_(math.nan)
    found = probe(real(5, 5), real(0, 0)).measure(broken, Linear(), Threshold(), 0.0)
    assert math.isnan(found["diversity/generator"])
    assert found["duplicates/generator"] == 1


def test_distances_equal_those_of_tile_means():
    x = torch.rand(4, 3, R, R, dtype=torch.float64)
    tiles = x.reshape(4, 3, 8, 2, 8, 2).mean((3, 5)).flatten(1)
    expected = torch.tensor([[float((a - b).norm()) for b in tiles] for a in tiles])
    # Distances of 3 in float32, by differences or by |a|^2 + |b|^2 - 2 a.b, of which a tenth is left.
    torch.testing.assert_close(distances(x), expected, rtol=1e-5, atol=1e-5)
    assert mean_distance(x) == pytest.approx(float(expected.sum()) / 12, rel=1e-5)


def test_steepness_of_a_linear_generator_equals_that_of_its_weight():
    generator = Linear().eval()
    batch = FixedBatch.for_class(1, 5, 0, CPU)
    with torch.no_grad():
        change = batch.direction / math.sqrt(1 + 1e-5) @ generator.map.weight.T
        found = steepness(generator, batch, generator(batch.z, batch.y))
    assert found == pytest.approx(float(change.square().mean().sqrt()), rel=1e-3)  # a difference quotient in float32


def test_gradient_norm_equals_the_analytic_gradient_of_d():
    images = torch.rand(PER_CLASS, 3, R, R)
    found = gradient_norm(Threshold(), images, torch.zeros(PER_CLASS, dtype=torch.long))
    assert found == pytest.approx(1 / math.sqrt(3 * R * R), rel=1e-5)


def test_measuring_does_not_modify_the_networks():
    networks = [Linear(), Linear().eval(), Threshold()]
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    first = probe(real(5, 5), real(5, 5)).measure(*networks, 0.0)
    assert [n.training for n in networks] == [True, False, True]
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert probe(real(5, 5), real(5, 5)).measure(*networks, 0.0) == first
