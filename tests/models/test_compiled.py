"""Residual blocks as inductor compiles them, against eager ones; tests/distributed/test_options.py has whole runs."""

import copy

import pytest
import torch
from torch import nn

from biggan.models.biggan import BigGANDiscriminator, BigGANGenerator
from biggan.models.networks import initialize


@pytest.fixture
def networks():
    torch.manual_seed(0)
    sizes = {"resolution": 32, "channels": 2, "classes": 5}
    G = BigGANGenerator(**sizes, z_dim=8, class_embedding_dim=4, hierarchical=False)
    D = BigGANDiscriminator(**sizes)
    for network in (G, D):
        initialize(network, "orthogonal")
    return {"generator": G, "discriminator": D}


def values(block: nn.Module, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a training step's output, gradients, and buffers after it: BatchNorm statistics and singular vectors."""
    out = block(*inputs)
    parameters = dict(block.named_parameters())
    gradients = torch.autograd.grad(out.square().sum(), [*inputs, *parameters.values()])
    names = [*(f"input {k}" for k in range(len(inputs))), *parameters]
    return {"out": out.detach()} | dict(zip(names, gradients, strict=True)) | dict(block.named_buffers())


@pytest.mark.long
@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_block_compiled_with_inductor_equals_the_eager_one(networks, name):
    block = networks[name].blocks[0]
    shapes = [(6, 8, 4, 4), (6, 4)] if name == "generator" else [(6, 3, 32, 32)]
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    compiled = copy.deepcopy(block)
    compiled.compile(fullgraph=True)
    expected, actual = values(block, inputs), values(compiled, inputs)
    largest = max(value.abs().max().item() for value in expected.values())  # others are sums of such that cancel
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * largest)
