"""BigGAN-deep's generator and discriminator (Brock et al. 2018, appendix B, "BigGAN-deep").

Each stage has `depth` bottleneck blocks. Their shortcuts have no weights, except where D widens. z is not split: all of
it, concatenated with the class embedding, enters the first layer and conditions every BatchNorm.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.families import BOTTOM_WIDTH, D_WIDTHS, FAMILIES, G_WIDTHS, smallest_map
from biggan.models.batchnorm import BatchNorm, ConditionalBatchNorm
from biggan.models.layers import Layers
from biggan.models.networks import Discriminator, Generator, Norm, attention_after, no_norm, upsample

BOTTLENECK = FAMILIES["biggan-deep"].bottleneck
"""Blocks are narrower inside by this factor: than their input in G, than their output in D."""

if TYPE_CHECKING:
    from biggan.models.architecture import Architecture


class DeepGeneratorBlock(nn.Module):
    """1x1, 3x3, 3x3 and 1x1 convolutions, each after BN - ReLU, beside the input: [N, in, H, W] -> [N, out, H', W'].

    The shortcut keeps the first `outputs` channels. With `doubling`, H' = 2 H, upsampled after the first convolution.
    """

    def __init__(self, bns: list[ConditionalBatchNorm], inputs: int, outputs: int, layers: Layers, doubling: bool):
        """`bns`: one BatchNorm of `inputs` channels, then three of `inputs` / 4."""
        super().__init__()
        narrow = inputs // BOTTLENECK
        self.outputs, self.doubling = outputs, doubling
        self.bn1, self.bn2, self.bn3, self.bn4 = bns
        self.conv1 = layers.conv(inputs, narrow, 1)
        self.conv2 = layers.conv(narrow, narrow, 3)
        self.conv3 = layers.conv(narrow, narrow, 3)
        self.conv4 = layers.conv(narrow, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x, condition)))
        h = F.relu(self.bn2(h, condition))
        h = self.conv2(upsample(h) if self.doubling else h)
        h = self.conv3(F.relu(self.bn3(h, condition)))
        h = self.conv4(F.relu(self.bn4(h, condition)))
        x = x[:, : self.outputs]
        return h + (upsample(x) if self.doubling else x)


class DeepDiscriminatorBlock(nn.Module):
    """1x1, 3x3, 3x3 and 1x1 convolutions, each after ReLU, beside the input: [N, in, H, W] -> [N, out, H', W'].

    Where the block widens, the shortcut is the input concatenated with a 1x1 convolution of it. With `halving`,
    H' = H / 2.
    """

    def __init__(self, inputs: int, outputs: int, layers: Layers, norm: Norm, halving: bool):
        """`norm(channels)` builds the normalization before each ReLU."""
        super().__init__()
        narrow = outputs // BOTTLENECK
        self.norm1, self.norm2, self.norm3, self.norm4 = norm(inputs), norm(narrow), norm(narrow), norm(narrow)
        self.halving = halving
        self.conv1 = layers.conv(inputs, narrow, 1)
        self.conv2 = layers.conv(narrow, narrow, 3)
        self.conv3 = layers.conv(narrow, narrow, 3)
        self.conv4 = layers.conv(narrow, outputs, 1)
        self.conv_shortcut = layers.conv(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, kinds)))
        h = self.conv2(F.relu(self.norm2(h, kinds)))
        h = F.relu(self.norm4(self.conv3(F.relu(self.norm3(h, kinds))), kinds))
        if self.halving:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.conv_shortcut is not None:
            x = torch.cat([x, self.conv_shortcut(x)], 1)
        return self.conv4(h) + x


class BigGANDeepGenerator(Generator):
    """BigGAN-deep's generator: `depth` blocks per stage; the last one doubles the resolution and changes the width."""

    def __init__(
        self,
        resolution: int,
        channels: int,
        depth: int,
        classes: int,
        z_dim: int,
        class_embedding_dim: int,
        attention: Collection[int] = (),
        sn_eps: float | None = 1e-6,
        bn_eps: float = 1e-5,
        image_channels: int = 3,
    ):
        """`attention`: resolutions, pixels. `sn_eps` None: no spectral normalization."""
        super().__init__()
        widths = [channels * w for w in G_WIDTHS[resolution]]
        self.z_dim, self.classes, self.resolution = z_dim, classes, resolution
        condition_dim = class_embedding_dim + z_dim
        layers = Layers(sn_eps)

        def block(inputs: int, outputs: int, doubling: bool) -> DeepGeneratorBlock:
            features = [inputs] + 3 * [inputs // BOTTLENECK]
            bns = [ConditionalBatchNorm(n, bn_eps, lambda n: layers.linear(condition_dim, n, False)) for n in features]
            return DeepGeneratorBlock(bns, inputs, outputs, layers, doubling)

        self.class_embedding = nn.Embedding(classes, class_embedding_dim)
        self.linear = layers.linear(condition_dim, widths[0] * BOTTOM_WIDTH**2)
        self.blocks = nn.ModuleList()
        stages = []
        for stage, (i, o) in enumerate(pairwise(widths), start=1):
            self.blocks.extend(block(i, i, doubling=False) for _ in range(depth - 1))
            self.blocks.append(block(i, o, doubling=True))
            stages.append((stage * depth - 1, o, BOTTOM_WIDTH * 2**stage))
        self.attention = attention_after(stages, attention, layers)
        self.output_bn = BatchNorm(widths[-1], bn_eps)
        self.output_conv = layers.conv(widths[-1], image_channels, 3)

    def from_condition(self, z: Tensor, condition: Tensor) -> Tensor:
        condition = torch.cat([condition, z], 1)
        h = self.linear(condition).unflatten(1, (-1, BOTTOM_WIDTH, BOTTOM_WIDTH))
        return self.render(h, [condition] * len(self.blocks))


class BigGANDeepDiscriminator(Discriminator):
    """BigGAN-deep's discriminator: a 3x3 convolution, then `depth` blocks per stage; the first one of a stage halves
    the resolution and widens.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        depth: int,
        classes: int,
        attention: Collection[int] = (),
        sn_eps: float | None = 1e-6,
        image_channels: int = 3,
        norm: Norm = no_norm,
    ):
        """`attention`: resolutions, pixels. `sn_eps` None: no spectral normalization."""
        layers = Layers(sn_eps)
        widths = [channels * w for w in D_WIDTHS[resolution]]
        input_conv = layers.conv(image_channels, widths[0], 3)
        pixels, blocks, stages = resolution, nn.ModuleList(), []
        for i, o in pairwise(widths):
            halving = pixels > smallest_map(resolution)
            blocks.append(DeepDiscriminatorBlock(i, o, layers, norm, halving))
            blocks.extend(DeepDiscriminatorBlock(o, o, layers, norm, halving=False) for _ in range(depth - 1))
            if halving:
                pixels //= 2
                stages.append((len(blocks) - 1, o, pixels))
        super().__init__(blocks, attention_after(stages, attention, layers), widths[-1], classes, layers)
        self.input_conv = input_conv

    def features(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        return super().features(self.input_conv(x), kinds)


def build_generator(networks: Architecture) -> Generator:
    """Build the generator of `networks`."""
    return BigGANDeepGenerator(
        resolution=networks.resolution,
        channels=networks.channels,
        depth=networks.depth,
        classes=networks.classes,
        z_dim=networks.z_dim,
        class_embedding_dim=networks.class_embedding_dim,
        attention=networks.g_attention,
        sn_eps=networks.sn_eps if networks.g_spectral_norm else None,
        bn_eps=networks.bn_eps,
        image_channels=networks.image_channels,
    )


def build_discriminator(networks: Architecture) -> Discriminator:
    """Build the discriminator of `networks`."""
    return BigGANDeepDiscriminator(
        resolution=networks.resolution,
        channels=networks.d_channels,
        depth=networks.d_depth,
        classes=networks.classes,
        attention=networks.d_attention,
        sn_eps=networks.sn_eps if networks.d_spectral_norm else None,
        image_channels=networks.image_channels,
        norm=networks.d_norm,
    )
