"""Normalization in D: what mixes samples sees one kind of rows at a time; spectral norm can be switched off."""

import pytest
import torch

from biggan.config.model import ModelConfig
from biggan.models.architecture import configured_architecture
from biggan.models.layers import SpectralNorm
from biggan.models.networks import KindwiseBatchNorm, LayerNorm, normalization

FAMILIES = {
    "biggan": {},
    "plain": {"residual": False},
    "deep": {"family": "biggan-deep", "class_embedding_dim": 4},
}


def networks(**settings):
    """Return the architecture of small networks."""
    fixed = {"resolution": 32, "channels": 4, "classes": 3, "z_dim": 8, "class_embedding_dim": 4}
    return configured_architecture(ModelConfig(**{**fixed, **settings}))


def rows(n, bias=0.0):
    random = torch.Generator().manual_seed(n)
    return torch.rand(n, 3, 32, 32, generator=random) * 2 - 1 + bias, torch.randint(3, (n,), generator=random)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_statistics_cover_one_kind_of_rows(family):
    """Fake, real and extra rows in one forward have the logits they have alone; mixed they have others."""
    D = networks(d_normalization="batch", d_spectral_norm=False, **FAMILIES[family]).discriminator()
    kinds = [rows(4), rows(6, bias=0.5), rows(2, bias=-0.5)]
    apart = torch.cat([D(x, y) for x, y in kinds])
    x, y = (torch.cat(parts) for parts in zip(*kinds, strict=True))
    # The same numbers through the same kernels on other memory: a few roundings.
    torch.testing.assert_close(D(x, y, (4, 6, 2)), apart, rtol=1e-4, atol=1e-4)
    assert (D(x, y) - apart).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_norm_is_of_single_images(family):
    D = networks(d_normalization="layer", **FAMILIES[family]).discriminator().eval()
    x, y = rows(5)
    torch.testing.assert_close(D(x, y, (2, 3)), torch.cat([D(x[k : k + 1], y[k : k + 1]) for k in range(5)]))
    features = LayerNorm(6, 1e-5)(torch.randn(2, 6, 3, 3) * 4 + 2)
    for image in features:
        assert image.mean().item() == pytest.approx(0, abs=1e-5)
        assert image.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["none", "layer", "batch"])
def test_a_norm_before_every_relu_but_the_first_and_no_spectral_norm(family, kind):
    described = networks(d_normalization=kind, d_spectral_norm=False, **FAMILIES[family])
    D = described.discriminator()
    assert not [m for m in D.modules() if isinstance(m, SpectralNorm)]
    norms = [m for m in D.modules() if isinstance(m, LayerNorm | KindwiseBatchNorm)]
    per_block = {"biggan": 2, "plain": 1, "deep": 4}[family]
    first = 0 if family == "deep" else 1  # the first block of the others starts at the image
    assert len(norms) == (0 if kind == "none" else per_block * len(D.blocks) - first)
    assert isinstance(normalization("layer", 1e-5)(3), LayerNorm)


def test_further_outputs_come_with_the_logits():
    D = networks().discriminator().eval()
    x, y = rows(3)
    found = D(x, y, (1, 2), ("features",))
    assert torch.equal(found["logits"], D(x, y))
    expected = torch.relu(D.features(x)).sum((2, 3))
    assert torch.equal(found["features"], expected)


def test_exports_of_version_0_1_keep_their_digest_and_settings_added_since_then_are_written():
    plain, other = networks(), networks(d_normalization="layer", d_spectral_norm=False)
    assert not {"d_normalization", "d_spectral_norm"} & plain.to_json().keys()
    assert other.to_json()["d_normalization"] == "layer"
    assert plain.digest() != other.digest()
