"""BatchNorm on one process, against torch's and against float64. Several processes: tests/distributed."""

import pytest
import torch
from bounds import SUMS64
from torch import nn
from torch.nn import functional as F

from biggan.models.batchnorm import BatchNorm, ConditionalBatchNorm, CrossReplicaBatchNorm, _combine, _shard_statistics

pytestmark = pytest.mark.numeric


def test_equals_torchs_batchnorm_in_float64():
    torch.manual_seed(0)
    x = (torch.randn(6, 5, 4, 3, dtype=torch.float64) * 3 + 2).requires_grad_()
    ours, theirs = BatchNorm(5, 1e-5).double(), nn.BatchNorm2d(5, eps=1e-5).double()
    upstream = torch.randn_like(x)
    gradients = []
    for layer in (ours, theirs):
        out = layer(x)
        gradients.append(torch.autograd.grad(out, [x, *layer.parameters()], upstream))
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=SUMS64)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_inputs_have_float32_statistics(memory_format):
    torch.manual_seed(0)
    x = (torch.randn(16, 8, 16, 16) * 0.5 + 4).bfloat16().to(memory_format=memory_format)
    layer = CrossReplicaBatchNorm(8, 1e-5, momentum=1.0)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=memory_format)
    # Float32 sums of 4,096 numbers; the squared mean is 64 times the variance. Bfloat16 statistics are off by 4e-3.
    torch.testing.assert_close(layer.running_mean.double(), x.double().mean((0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_var.double(), x.double().var((0, 2, 3)), rtol=3e-4, atol=0)


def test_variance_survives_a_mean_a_thousand_times_larger():
    """E[x^2] - E[x]^2 in float32 would lose every digit of it, within a shard and between shards.

    1e-3: the shards' means are rounded to 1e-4, beside a spread of 1.
    """
    x = torch.randn(64, 2, 8, 8, dtype=torch.float64) + 3000
    layer = CrossReplicaBatchNorm(2, 1e-5, momentum=1.0)
    layer(x.float())
    exact = x.float().double().var((0, 2, 3))
    torch.testing.assert_close(layer.running_var.double(), exact, rtol=1e-3, atol=0)
    shards = x.float().double().split([10, 54])
    rows = [
        torch.cat([torch.tensor([s.numel() / 2.0]), s.mean((0, 2, 3)).float(), s.var((0, 2, 3), correction=0).float()])
        for s in shards
    ]
    _, _, combined = _combine(torch.stack(rows))
    torch.testing.assert_close(combined.double(), x.float().double().var((0, 2, 3), correction=0), rtol=1e-3, atol=0)


def test_a_non_finite_batch_leaves_the_running_statistics_alone():
    layer = CrossReplicaBatchNorm(2, 1e-5)
    x = torch.randn(4, 2, 4, 4)
    x[0, 1] = torch.inf
    layer(x)
    assert layer.running_mean[0] != 0
    assert layer.running_mean[1] == 0
    assert layer.running_var[1] == 1


def test_conditional_scale_and_shift_come_from_the_condition():
    layer = ConditionalBatchNorm(3, 1e-5, lambda channels: nn.Embedding(4, channels))
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 3, 0])
    normalized = F.batch_norm(x, None, None, training=True, eps=1e-5)
    expected = normalized * (1 + layer.gain.weight[y])[:, :, None, None] + layer.bias.weight[y][:, :, None, None]
    torch.testing.assert_close(layer(x, y), expected)


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    layer = BatchNorm(4, 1e-5)
    compiled = torch.compile(lambda x: layer(x), fullgraph=True, backend="aot_eager")  # inductor: the next test
    x = torch.randn(6, 4, 5, 5, requires_grad=True)
    upstream = torch.randn_like(x)
    expected, actual = (torch.autograd.grad(f(x), x, upstream)[0] for f in (layer, compiled))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)  # float32, fused otherwise


@pytest.mark.slow
def test_compiled_statistics_of_bfloat16_stay_float32():
    x = (torch.randn(257, 8, 3, 3) * 2 + 5).bfloat16()  # 2,313 positions: no bfloat16 number
    for eager, compiled in zip(
        _shard_statistics(x, 1e-5), torch.compile(_shard_statistics, fullgraph=True)(x, 1e-5), strict=True
    ):
        assert eager.dtype == compiled.dtype == torch.float32
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)  # in bfloat16 0.02
