"""BatchNorm with statistics of the global batch over all processes, and its class-conditional form.

torch has no cross-replica BatchNorm that runs on CPU. This one combines torch's own single-device kernels:
each process normalizes its shard, one all-gather of (count, mean, variance) gives the statistics of the
whole batch (combined by Chan's formula, never E[x^2] - E[x]^2), and backward needs one all-reduce of the
two gradient sums. Statistics of bfloat16 inputs are computed in float32, those of float32 inputs in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from biggan.distributed.collectives import all_gather_rows, all_reduce_sum

Affine = Callable[[int], nn.Module]


class _Normalize(torch.autograd.Function):
    """x [N, C, H, W] -> ((x - mean) / sqrt(var + eps), mean [C], var [C] (biased), count []).

    Statistics cover all processes in `group`. Gradients flow through the first output only and are exact: those of
    BatchNorm on the concatenated batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, group: ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, count = _shard_statistics(x, eps)
        if group is not None:
            count, mean, var = _combine(all_gather_rows(torch.cat([count.view(1), mean, var]), group))
        ones, zeros = _constants(x, torch.promote_types(x.dtype, torch.float32))
        mean, var, count = mean.to(ones.dtype), var.to(ones.dtype), count.to(ones.dtype)
        out = F.batch_norm(x, mean, var, ones, zeros, training=False, eps=eps)
        invstd = (var + eps).rsqrt()
        ctx.save_for_backward(x, mean, var, invstd, count)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        x, mean, var, invstd, count = ctx.saved_tensors
        ones, _zeros = _constants(x, mean.dtype)
        # torch's backward treats this shard as the whole batch: dx = invstd * (dy - dot/n * xhat - total/n),
        # with dot = sum(dy * xhat) and total = sum(dy) over the shard's n positions.
        dx, dot, total = torch.ops.aten.native_batch_norm_backward(
            grad, x, ones, None, None, mean, invstd, True, ctx.eps, [True, True, True]
        )
        if ctx.group is not None:
            # Replace the shard's two means by the global batch's; the difference is linear in xhat. (Divide before
            # the reduction: inductor reduces in place, and must not overwrite dot and total themselves.)
            n = x.numel() // x.shape[1]
            dot_mean, total_mean = all_reduce_sum(torch.cat([dot, total]) / count, ctx.group).chunk(2)
            dot_excess, total_excess = (dot / n - dot_mean) * invstd, (total / n - total_mean) * invstd
            dx = dx + F.batch_norm(x, mean, var, dot_excess, total_excess, training=False, eps=ctx.eps)
        return dx, None, None


def _shard_statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and count [] of one shard, one precision above x's.

    A wider precision, because a statistic that is off by one float32 rounding, depending on how the batch is split,
    can flip a few ReLUs, and Adam amplifies that.
    """
    low = x.dtype in (torch.bfloat16, torch.float16)
    wide = x if low else x.double()
    if low and torch.compiler.is_compiling():
        wide = x.float()  # inductor's CPU kernel rounds the statistics to its input's precision
    ones, zeros = _constants(x, torch.float32 if low else torch.float64)
    _, mean, invstd = torch.native_batch_norm(wide, ones, zeros, None, None, True, 0.0, eps)
    mean, invstd = mean.to(ones.dtype), invstd.to(ones.dtype)  # FakeTensor reports them in x's precision
    return mean, invstd.pow(-2) - eps, mean.new_full((), x.numel() // x.shape[1])


def _constants(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return unit scale and zero shift [C]; torch's kernels compute statistics in their precision."""
    return x.new_ones(x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)


def _combine(shards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (count, mean [C], biased variance [C]) of a union of disjoint shards, one per row (Chan 1979)."""
    counts, means, variances = shards[:, :1], *shards[:, 1:].chunk(2, dim=1)
    total = counts.sum()
    weight = counts / total
    mean = (weight * means).sum(0)
    return total, mean, (weight * (variances + (means - mean).square())).sum(0)


class CrossReplicaBatchNorm(nn.Module):
    """BatchNorm2d without scale and shift. Buffers: `running_mean` [C], `running_var` [C] (unbiased).

    In training mode statistics cover the batch over all processes of `process_group` (None: this process only) and
    update the running ones by `momentum`; evaluation mode uses the running ones. A non-finite batch does not change the
    running statistics, just as it does not change the weights.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.process_group: ProcessGroup | None = None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            ones, zeros = _constants(x, self.running_mean.dtype)
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, ones, zeros, training=False, eps=self.eps)
        out, mean, var, count = _Normalize.apply(x, self.eps, self.process_group)
        with torch.no_grad():
            self._move(self.running_mean, mean)
            self._move(self.running_var, var * (count / (count - 1)))
        return out

    def _move(self, running: Tensor, batch: Tensor) -> None:
        moved = torch.lerp(running, batch.to(running.dtype), self.momentum)
        running.copy_(torch.where(moved.isfinite(), moved, running))


class BatchNorm(CrossReplicaBatchNorm):
    """Cross-replica BatchNorm with a learned `gain` [C] and `bias` [C]."""

    def __init__(self, channels: int, eps: float):
        super().__init__(channels, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return scale_and_shift(x, self.gain[:, None, None], self.bias[:, None, None])


class ConditionalBatchNorm(CrossReplicaBatchNorm):
    """Cross-replica BatchNorm whose scale and shift depend on the class (BigGAN, appendix B).

    `affine(C)` builds each of the two maps from a condition (an embedding [N, E], or labels [N]) to [N, C]. The scale
    is 1 + gain(condition), so that it starts near 1.
    """

    def __init__(self, channels: int, eps: float, affine: Affine):
        super().__init__(channels, eps)
        self.gain = affine(channels)
        self.bias = affine(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        return scale_and_shift(super().forward(x), gain[:, :, None, None], bias[:, :, None, None])


def scale_and_shift(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Return x * gain + bias in x's precision."""
    return torch.addcmul(bias.to(x.dtype), x, gain.to(x.dtype))


def set_batchnorm_group(network: nn.Module, group: ProcessGroup | None) -> None:
    """Share the BatchNorm statistics of `network` over the processes of `group`."""
    for module in network.modules():
        if isinstance(module, CrossReplicaBatchNorm):
            module.process_group = group
