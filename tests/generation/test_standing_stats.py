"""Standing statistics against float64 ones, taken by hand from what goes into each BatchNorm."""

import copy

import pytest
import torch
from sampling_run import small_generator

from biggan.generation import standing_stats
from biggan.generation.standing_stats import standing_statistics
from biggan.generation.truncation import truncated_normal
from biggan.models.batchnorm import CrossReplicaBatchNorm
from biggan.random import keyed_generator

BATCHES, IMAGES = 3, 12


def norms_of(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, CrossReplicaBatchNorm)}


def statistics(network):
    return {k: v for k, v in network.state_dict().items() if "running_" in k}


def by_hand(generator, truncation):
    """Mean over the batches of each batch's mean and unbiased variance, in float64, from forward hooks."""
    network = copy.deepcopy(generator).double().eval()
    inputs = {}
    for name, norm in norms_of(network).items():
        norm.training = True  # batch statistics, as they are when such a batch is trained on
        norm.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    for k in range(BATCHES):
        random = keyed_generator("standing", 5, k)
        z = truncated_normal((IMAGES, network.z_dim), truncation, random)
        with torch.no_grad():
            network(z.double(), torch.randint(network.classes, (IMAGES,), generator=random))
    found = {}
    for name, batches in inputs.items():
        rows = [x.transpose(0, 1).flatten(1) for x in batches]
        found[f"{name}.running_mean"] = torch.stack([x.mean(1) for x in rows]).mean(0)
        found[f"{name}.running_var"] = torch.stack([x.var(1, correction=1) for x in rows]).mean(0)
    return found


@pytest.mark.parametrize("truncation", [None, 0.5])
def test_equal_those_taken_by_hand_in_float64(truncation):
    generator = small_generator()
    standing = statistics(standing_statistics(generator, truncation, BATCHES, IMAGES, seed=5))
    expected = by_hand(generator, truncation)
    assert standing.keys() == expected.keys()
    assert len(standing) == 2 * 7
    for name, value in standing.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=2e-5, atol=2e-6, msg=name)


def test_the_generator_is_untouched_and_only_statistics_of_the_copy_differ():
    generator = small_generator()
    generator.train()  # as one that is being trained may be
    before = copy.deepcopy(generator.state_dict())
    standing = standing_statistics(generator, 0.5, BATCHES, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert all(module.training for module in generator.modules())
    assert all(norm.momentum == 0.1 for norm in norms_of(generator).values())
    assert not any(module.training for module in standing.modules())
    changed = {name for name, value in standing.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == statistics(generator).keys()  # among the others: spectral norm's vectors


def test_the_order_of_batches_does_not_matter(monkeypatch):
    generator = small_generator()
    forwards = statistics(standing_statistics(generator, None, BATCHES, IMAGES))
    monkeypatch.setattr(standing_stats, "keyed_generator", lambda *key: keyed_generator(*key[:2], BATCHES - 1 - key[2]))
    backwards = statistics(standing_statistics(generator, None, BATCHES, IMAGES))
    assert any(not torch.equal(forwards[name], backwards[name]) for name in forwards)  # they did change places
    for name, value in forwards.items():
        torch.testing.assert_close(backwards[name], value, rtol=1e-5, atol=1e-6)


def test_they_are_those_of_the_truncation_alone():
    generator = small_generator()
    taken = [statistics(standing_statistics(generator, t, BATCHES, IMAGES)) for t in (None, 0.3, 0.3)]
    assert all(torch.equal(taken[1][name], taken[2][name]) for name in taken[1])
    assert all(not torch.equal(taken[0][name], taken[1][name]) for name in taken[0])
    # Squeezed latents vary less, and so does the first layer's output, which is linear in them.
    assert (taken[1]["blocks.0.bn1.running_var"] < taken[0]["blocks.0.bn1.running_var"]).all()
