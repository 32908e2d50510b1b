"""The BigGAN generator and discriminator (Brock et al. 2018, appendix B, tables 4 to 9).

Both are stacks of residual blocks; `STAGES` says how wide each is, in multiples of `channels`. Images are
float [N, 3, R, R] in [-1, 1], latents float [N, z_dim], labels int64 [N] in [0, classes).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.models.batchnorm import BatchNorm, ConditionalBatchNorm
from biggan.models.layers import SelfAttention, SNConv2d, SNEmbedding, SNLinear

BOTTOM_WIDTH = 4
"""Height and width, pixels, of the generator's first feature map."""

G_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Resolution -> width of the first feature map and after each block; every block doubles the resolution."""

D_WIDTHS: dict[int, tuple[int, ...]] = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
"""Resolution -> width after each block. Blocks halve the resolution down to 4 px (8 px for 32 px images)."""


class GeneratorBlock(nn.Module):
    """BN - ReLU - upsample - conv - BN - ReLU - conv beside a 1x1 shortcut: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, bn1: ConditionalBatchNorm, bn2: ConditionalBatchNorm, inputs: int, outputs: int, eps: float):
        super().__init__()
        self.bn1, self.bn2 = bn1, bn2
        self.conv1 = SNConv2d(inputs, outputs, 3, eps)
        self.conv2 = SNConv2d(outputs, outputs, 3, eps)
        self.conv_shortcut = SNConv2d(inputs, outputs, 1, eps)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = F.relu(self.bn1(x, condition))
        h = self.conv1(upsample(h))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        # A 1x1 convolution commutes with nearest-neighbour upsampling, and is 4 times cheaper before it.
        return h + upsample(self.conv_shortcut(x))


class DiscriminatorBlock(nn.Module):
    """ReLU - conv - ReLU - conv - average pool beside a 1x1 shortcut: [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int, eps: float, downsample: bool, preactivation: bool):
        super().__init__()
        self.downsample, self.preactivation = downsample, preactivation
        self.conv1 = SNConv2d(inputs, outputs, 3, eps)
        self.conv2 = SNConv2d(outputs, outputs, 3, eps)
        has_shortcut = downsample or inputs != outputs
        self.conv_shortcut = SNConv2d(inputs, outputs, 1, eps) if has_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(x) if self.preactivation else x)
        h = self.conv2(F.relu(h))
        if self.downsample:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour: [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Generator(nn.Module):
    """z [N, z_dim], y [N] -> images [N, 3, R, R] in [-1, 1].

    With `hierarchical`, z is cut into equal chunks: the first feeds the first layer, the others join the
    class embedding that conditions one block each. `class_embedding_dim` 0 gives every BatchNorm a table of
    its own instead of the shared embedding.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        classes: int,
        z_dim: int,
        class_embedding_dim: int,
        hierarchical: bool,
        attention: Collection[int] = (),
        sn_eps: float = 1e-6,
        bn_eps: float = 1e-5,
    ):
        super().__init__()
        widths = [channels * w for w in G_WIDTHS[resolution]]
        self.z_dim, self.classes, self.resolution = z_dim, classes, resolution
        self.chunks = len(widths) if hierarchical else 1
        assert z_dim % self.chunks == 0, "z_dim must be a multiple of the hierarchical chunks"
        chunk = z_dim // self.chunks
        shared = class_embedding_dim > 0
        condition_dim = class_embedding_dim + (chunk if hierarchical else 0)

        def affine(features: int) -> nn.Module:
            if shared:
                return SNLinear(condition_dim, features, sn_eps, bias=False)
            return nn.Embedding(classes, features)

        def conditional_batchnorm(features: int) -> ConditionalBatchNorm:
            return ConditionalBatchNorm(features, bn_eps, affine)

        self.class_embedding = nn.Embedding(classes, class_embedding_dim) if shared else None
        self.linear = SNLinear(chunk, widths[0] * BOTTOM_WIDTH**2, sn_eps)
        self.blocks = nn.ModuleList(
            GeneratorBlock(conditional_batchnorm(i), conditional_batchnorm(o), i, o, sn_eps)
            for i, o in pairwise(widths)
        )
        self.attention = nn.ModuleDict(
            {
                str(k): SelfAttention(width, sn_eps)
                for k, width in enumerate(widths[1:])
                if BOTTOM_WIDTH * 2 ** (k + 1) in attention
            }
        )
        self.output_bn = BatchNorm(widths[-1], bn_eps)
        self.output_conv = SNConv2d(widths[-1], 3, 3, sn_eps)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.from_condition(z, y if self.class_embedding is None else self.class_embedding(y))

    def from_condition(self, z: Tensor, condition: Tensor) -> Tensor:
        """`forward` from the class embedding [N, class_embedding_dim] itself, as mixing classes needs."""
        first, *rest = z.chunk(self.chunks, dim=1)
        h = self.linear(first).unflatten(1, (-1, BOTTOM_WIDTH, BOTTOM_WIDTH))
        for k, block in enumerate(self.blocks):
            h = block(h, torch.cat([condition, rest[k]], 1) if rest else condition)
            if str(k) in self.attention:
                h = self.attention[str(k)](h)
        return torch.tanh(self.output_conv(F.relu(self.output_bn(h))))


class Discriminator(nn.Module):
    """Images [N, 3, R, R], y [N] -> logits [N]: features summed over positions, projected on the class.

    The projection discriminator of Miyato & Koyama 2018: linear(h) + <embedding(y), h>.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        classes: int,
        attention: Collection[int] = (),
        sn_eps: float = 1e-6,
    ):
        super().__init__()
        widths = [3] + [channels * w for w in D_WIDTHS[resolution]]
        smallest = 8 if resolution == 32 else 4
        self.blocks = nn.ModuleList()
        self.attention = nn.ModuleDict()
        for k, (i, o) in enumerate(pairwise(widths)):
            downsample = resolution > smallest
            self.blocks.append(DiscriminatorBlock(i, o, sn_eps, downsample, preactivation=k > 0))
            if downsample:
                resolution //= 2
                if resolution in attention:
                    self.attention[str(k)] = SelfAttention(o, sn_eps)
        self.linear = SNLinear(widths[-1], 1, sn_eps)
        self.class_embedding = SNEmbedding(classes, widths[-1], sn_eps)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for k, block in enumerate(self.blocks):
            x = block(x)
            if str(k) in self.attention:
                x = self.attention[str(k)](x)
        h = F.relu(x).sum((2, 3))
        return self.linear(h).squeeze(1) + (self.class_embedding(y) * h).sum(1)


def initialize(network: nn.Module, scheme: str) -> None:
    """Draw every weight matrix anew: `orthogonal` (Saxe et al. 2014) or `normal`, N(0, 0.02).

    Biases keep torch's default; BatchNorm and attention gains start as their classes say.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            if scheme == "orthogonal":
                nn.init.orthogonal_(module.weight)
            else:
                assert scheme == "normal", scheme
                nn.init.normal_(module.weight, 0, 0.02)
