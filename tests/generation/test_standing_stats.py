"""Standing statistics against a float64 reference, computed from the inputs of each BatchNorm."""

import copy

import pytest
import torch
from sampling_run import small_generator

from biggan.generation import standing_stats
from biggan.generation.standing_stats import standing_statistics
from biggan.generation.truncation import truncated_normal
from biggan.models.batchnorm import CrossReplicaBatchNorm
from biggan.random import keyed_generator

pytestmark = pytest.mark.numeric

BATCHES, IMAGES = 3, 12
SEVEN_LAYERS = {"rtol": 2e-5, "atol": 1e-5}
"""Float32 against float64, or in another order, through seven layers: 2e-7 was the most. One batch less gives 1e-2."""


def norms_of(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, CrossReplicaBatchNorm)}


def statistics(network):
    return {k: v for k, v in network.state_dict().items() if "running_" in k}


def reference_statistics(generator, truncation):
    """Average each batch's mean and unbiased variance over the batches, in float64, from forward hooks."""
    network = copy.deepcopy(generator).double().eval()
    inputs = {}
    for name, norm in norms_of(network).items():
        norm.training = True  # normalize with batch statistics, as in training
        norm.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    for k in range(BATCHES):
        random = keyed_generator("standing", 5, k)
        z = truncated_normal((IMAGES, network.z_dim), truncation, random)
        with torch.no_grad():
            network(z.double(), torch.randint(network.classes, (IMAGES,), generator=random))
    expected = {}
    for name, batches in inputs.items():
        rows = [x.transpose(0, 1).flatten(1) for x in batches]
        expected[f"{name}.running_mean"] = torch.stack([x.mean(1) for x in rows]).mean(0)
        expected[f"{name}.running_var"] = torch.stack([x.var(1, correction=1) for x in rows]).mean(0)
    return expected


@pytest.mark.parametrize("truncation", [None, 0.5])
def test_standing_statistics_equal_the_float64_reference(truncation):
    generator = small_generator()
    standing = statistics(standing_statistics(generator, truncation, BATCHES, IMAGES, seed=5))
    expected = reference_statistics(generator, truncation)
    assert standing.keys() == expected.keys()
    assert len(standing) == 2 * 7
    for name, value in standing.items():
        torch.testing.assert_close(value.double(), expected[name], **SEVEN_LAYERS, msg=name)


def test_generator_is_unchanged_and_only_statistics_of_the_copy_differ():
    generator = small_generator()
    generator.train()  # as during training
    before = copy.deepcopy(generator.state_dict())
    standing = standing_statistics(generator, 0.5, BATCHES, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert all(module.training for module in generator.modules())
    assert all(norm.momentum == 0.1 for norm in norms_of(generator).values())
    assert not any(module.training for module in standing.modules())
    changed = {name for name, value in standing.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == statistics(generator).keys()  # the unchanged ones include the vectors of spectral norm


def test_order_of_batches_does_not_matter(monkeypatch):
    generator = small_generator()
    forwards = statistics(standing_statistics(generator, None, BATCHES, IMAGES))
    monkeypatch.setattr(standing_stats, "keyed_generator", lambda *key: keyed_generator(*key[:2], BATCHES - 1 - key[2]))
    backwards = statistics(standing_statistics(generator, None, BATCHES, IMAGES))
    assert any(not torch.equal(forwards[name], backwards[name]) for name in forwards)  # the order did change
    for name, value in forwards.items():
        torch.testing.assert_close(backwards[name], value, **SEVEN_LAYERS)


def test_statistics_depend_on_the_truncation_alone():
    generator = small_generator()
    results = [statistics(standing_statistics(generator, t, BATCHES, IMAGES)) for t in (None, 0.3, 0.3)]
    assert all(torch.equal(results[1][name], results[2][name]) for name in results[1])
    assert all(not torch.equal(results[0][name], results[1][name]) for name in results[0])
    # Truncated latents have less variance, and so has the first layer's output, which is linear in them.
    assert (results[1]["blocks.0.bn1.running_var"] < results[0]["blocks.0.bn1.running_var"]).all()
