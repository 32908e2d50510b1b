"""BigGAN's generator and discriminator (Brock et al. 2018, appendix B); settings turn them into their predecessors.

SAGAN (Zhang et al. 2019) has a class table per BatchNorm. SN-GAN with projection (Miyato & Koyama
2018) has no spectral normalization in the generator. Without residual shortcuts the blocks are those of a DCGAN
(Radford et al. 2016), with nearest-neighbour upsampling and average pooling in place of strided convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.families import BOTTOM_WIDTH, D_WIDTHS, G_WIDTHS, latent_chunks, smallest_map
from biggan.models.batchnorm import BatchNorm, ConditionalBatchNorm
from biggan.models.layers import Layers
from biggan.models.networks import Discriminator, Generator, NoNorm, Norm, attention_after, no_norm, upsample

if TYPE_CHECKING:
    from biggan.models.architecture import Architecture


class GeneratorBlock(nn.Module):
    """BN - ReLU - upsample - conv - BN - ReLU - conv beside a 1x1 shortcut: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, bn1: ConditionalBatchNorm, bn2: ConditionalBatchNorm, inputs: int, outputs: int, layers: Layers):
        super().__init__()
        self.bn1, self.bn2 = bn1, bn2
        self.conv1 = layers.conv(inputs, outputs, 3)
        self.conv2 = layers.conv(outputs, outputs, 3)
        self.conv_shortcut = layers.conv(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = F.relu(self.bn1(x, condition))
        h = self.conv1(upsample(h))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        # A 1x1 convolution commutes with nearest-neighbour upsampling and is 4 times cheaper before it.
        return h + upsample(self.conv_shortcut(x))


class PlainGeneratorBlock(nn.Module):
    """BN - ReLU - upsample - conv: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def __init__(self, bn1: ConditionalBatchNorm, inputs: int, outputs: int, layers: Layers):
        super().__init__()
        self.bn1 = bn1
        self.conv1 = layers.conv(inputs, outputs, 3)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.conv1(upsample(F.relu(self.bn1(x, condition))))
        return out


class DiscriminatorBlock(nn.Module):
    """ReLU - conv - ReLU - conv - average pool beside a shortcut: [N, in, H, W] -> [N, out, H/2, W/2].

    `norm(channels)` builds the normalization before each ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: Layers,
        norm: Norm,
        downsample: bool,
        preactivation: bool,
        conv_shortcut: bool,
    ):
        super().__init__()
        assert conv_shortcut or inputs == outputs
        self.downsample, self.preactivation = downsample, preactivation
        self.norm1, self.norm2 = norm(inputs) if preactivation else NoNorm(), norm(outputs)
        self.conv1 = layers.conv(inputs, outputs, 3)
        self.conv2 = layers.conv(outputs, outputs, 3)
        self.conv_shortcut = layers.conv(inputs, outputs, 1) if conv_shortcut else None

    def forward(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, kinds)) if self.preactivation else x)
        h = self.conv2(F.relu(self.norm2(h, kinds)))
        if self.downsample:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class PlainDiscriminatorBlock(nn.Module):
    """ReLU - conv - average pool: [N, in, H, W] -> [N, out, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int, layers: Layers, norm: Norm, downsample: bool, preactivation: bool):
        super().__init__()
        self.downsample, self.preactivation = downsample, preactivation
        self.norm1 = norm(inputs) if preactivation else NoNorm()
        self.conv1 = layers.conv(inputs, outputs, 3)

    def forward(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        h: Tensor = self.conv1(F.relu(self.norm1(x, kinds)) if self.preactivation else x)
        return F.avg_pool2d(h, 2) if self.downsample else h


class BigGANGenerator(Generator):
    """BigGAN's generator.

    With `hierarchical`, z is split into equal chunks. The first feeds the first layer; each of the others is
    concatenated with the class embedding and conditions one block. `class_embedding_dim` 0 gives every BatchNorm its
    own class table in place of the shared embedding.
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
        sn_eps: float | None = 1e-6,
        bn_eps: float = 1e-5,
        image_channels: int = 3,
        residual: bool = True,
    ):
        """`attention`: resolutions, pixels. `sn_eps` None: no spectral normalization."""
        super().__init__()
        widths = [channels * w for w in G_WIDTHS[resolution]]
        self.z_dim, self.classes, self.resolution = z_dim, classes, resolution
        self.chunks = latent_chunks("biggan", resolution, hierarchical)
        assert z_dim % self.chunks == 0, "z_dim must be a multiple of the hierarchical chunks"
        chunk = z_dim // self.chunks
        shared, layers = class_embedding_dim > 0, Layers(sn_eps)
        condition_dim = class_embedding_dim + (chunk if hierarchical else 0)

        def affine(features: int) -> nn.Module:
            return layers.linear(condition_dim, features, bias=False) if shared else nn.Embedding(classes, features)

        def block(inputs: int, outputs: int) -> nn.Module:
            bn1 = ConditionalBatchNorm(inputs, bn_eps, affine)
            if not residual:
                return PlainGeneratorBlock(bn1, inputs, outputs, layers)
            return GeneratorBlock(bn1, ConditionalBatchNorm(outputs, bn_eps, affine), inputs, outputs, layers)

        self.class_embedding = nn.Embedding(classes, class_embedding_dim) if shared else None
        self.linear = layers.linear(chunk, widths[0] * BOTTOM_WIDTH**2)
        self.blocks = nn.ModuleList(block(i, o) for i, o in pairwise(widths))
        stages = ((k, width, BOTTOM_WIDTH * 2 ** (k + 1)) for k, width in enumerate(widths[1:]))
        self.attention = attention_after(stages, attention, layers)
        self.output_bn = BatchNorm(widths[-1], bn_eps)
        self.output_conv = layers.conv(widths[-1], image_channels, 3)

    def from_condition(self, z: Tensor, condition: Tensor) -> Tensor:
        # Hierarchical z: each block sees a chunk of its own, so that z acts at every resolution (section 3.1).
        first, *rest = z.chunk(self.chunks, dim=1)
        h = self.linear(first).unflatten(1, (-1, BOTTOM_WIDTH, BOTTOM_WIDTH))
        conditions = [torch.cat([condition, part], 1) for part in rest] or [condition] * len(self.blocks)
        return self.render(h, conditions)


class BigGANDiscriminator(Discriminator):
    """BigGAN's discriminator: blocks halve the resolution down to the smallest map; any further blocks keep it."""

    def __init__(
        self,
        resolution: int,
        channels: int,
        classes: int,
        attention: Collection[int] = (),
        sn_eps: float | None = 1e-6,
        image_channels: int = 3,
        residual: bool = True,
        conv_shortcuts: str = "downsampling",
        norm: Norm = no_norm,
    ):
        """`attention`: resolutions, pixels. `sn_eps` None: no spectral normalization. `conv_shortcuts`: `downsampling`
        puts a convolution on the shortcut of every downsampling block, `widening` only where the width changes."""
        layers = Layers(sn_eps)
        widths = [image_channels] + [channels * w for w in D_WIDTHS[resolution]]
        pixels, blocks, stages = resolution, nn.ModuleList(), []
        for k, (i, o) in enumerate(pairwise(widths)):
            downsample = pixels > smallest_map(resolution)
            if residual:
                conv_shortcut = i != o or (downsample and conv_shortcuts == "downsampling")
                blocks.append(DiscriminatorBlock(i, o, layers, norm, downsample, k > 0, conv_shortcut))
            else:
                blocks.append(PlainDiscriminatorBlock(i, o, layers, norm, downsample, k > 0))
            if downsample:
                pixels //= 2
                stages.append((k, o, pixels))
        super().__init__(blocks, attention_after(stages, attention, layers), widths[-1], classes, layers)


def build_generator(networks: Architecture) -> Generator:
    """Build the generator of `networks`."""
    return BigGANGenerator(
        resolution=networks.resolution,
        channels=networks.channels,
        classes=networks.classes,
        z_dim=networks.z_dim,
        class_embedding_dim=networks.class_embedding_dim,
        hierarchical=networks.hierarchical,
        attention=networks.g_attention,
        sn_eps=networks.sn_eps if networks.g_spectral_norm else None,
        bn_eps=networks.bn_eps,
        image_channels=networks.image_channels,
        residual=networks.residual,
    )


def build_discriminator(networks: Architecture) -> Discriminator:
    """Build the discriminator of `networks`."""
    return BigGANDiscriminator(
        resolution=networks.resolution,
        channels=networks.d_channels,
        classes=networks.classes,
        attention=networks.d_attention,
        sn_eps=networks.sn_eps if networks.d_spectral_norm else None,
        image_channels=networks.image_channels,
        residual=networks.residual,
        conv_shortcuts=networks.d_conv_shortcuts,
        norm=networks.d_norm,
    )
