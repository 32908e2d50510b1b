"""The parts that networks of every family share: a stack of blocks with attention between them, and its two ends.

Images are float [N, C, R, R] in [-1, 1], latents float [N, z_dim], labels int64 [N] in [0, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.models.batchnorm import BatchNorm
from biggan.models.layers import Layers, SelfAttention, each_kind


class Generator(nn.Module):
    """z [N, z_dim], y [N] -> images [N, image_channels, R, R] in [-1, 1]."""

    resolution: int
    z_dim: int
    scaled_latents: bool = False
    """The meaning of truncation; see `Architecture.scaled_latents`."""
    classes: int
    class_embedding: nn.Embedding | None
    """Embedding shared by all conditional BatchNorms; None: each BatchNorm has its own table."""
    blocks: nn.ModuleList
    attention: nn.ModuleDict
    """Self-attention layers, keyed by the index of the block they follow."""
    output_bn: BatchNorm
    output_conv: nn.Module

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        # Without a shared embedding the labels themselves are the condition: every BatchNorm looks them up.
        return self.from_condition(z, y if self.class_embedding is None else self.class_embedding(y))

    def from_condition(self, z: Tensor, condition: Tensor) -> Tensor:
        """Return images from class embeddings [N, class_embedding_dim] in place of labels: any mixture of classes."""
        raise NotImplementedError

    def render(self, h: Tensor, conditions: Iterable[Tensor]) -> Tensor:
        """Return images from the first feature map [N, width, 4, 4] and one condition per block."""
        for k, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, condition)
            if str(k) in self.attention:
                h = self.attention[str(k)](h)
        return torch.tanh(self.output_conv(F.relu(self.output_bn(h))))


FURTHER_OUTPUTS = ("features",)
"""Outputs of every discriminator besides its logits."""


class Discriminator(nn.Module):
    """Images [N, image_channels, R, R], y [N] -> logits [N].

    The projection discriminator of Miyato & Koyama 2018: linear(h) + <embedding(y), h>, where h are the features
    summed over positions. With a single class there is no embedding.

    `kinds` are the numbers of rows of each kind (fake, real, rows of penalties): what mixes samples sees one kind at a
    time. `outputs` names further results; with any, they are returned in a dictionary with `logits`. "features" are
    h [N, width].
    """

    def __init__(self, blocks: nn.ModuleList, attention: nn.ModuleDict, width: int, classes: int, layers: Layers):
        """`width`: channels of the last feature maps. `attention`: keyed by the index of the block it follows."""
        super().__init__()
        self.blocks, self.attention = blocks, attention
        self.linear = layers.linear(width, 1)
        self.class_embedding = layers.embedding(classes, width) if classes > 1 else None

    def features(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        """Return the last feature maps [N, width, H, W] of images."""
        for k, block in enumerate(self.blocks):
            x = block(x, kinds)
            if str(k) in self.attention:
                x = self.attention[str(k)](x)
        return x

    def forward(self, x: Tensor, y: Tensor, kinds: Sequence[int] = (), outputs: Sequence[str] = ()) -> Any:
        h = F.relu(self.features(x, kinds)).sum((2, 3))
        logits: Tensor = self.linear(h).squeeze(1)
        logits = logits if self.class_embedding is None else logits + (self.class_embedding(y) * h).sum(1)
        return {"logits": logits, "features": h} if outputs else logits


class KindwiseBatchNorm(BatchNorm):
    """Cross-replica BatchNorm of the rows of each kind apart."""

    def forward(self, x: Tensor, kinds: Sequence[int] = ()) -> Tensor:
        return each_kind(super().forward, x, kinds)


class LayerNorm(nn.GroupNorm):
    """Normalization over all channels and positions of one image, with gain and bias per channel (WGAN-GP)."""

    def __init__(self, channels: int, eps: float):
        super().__init__(1, channels, eps)

    def forward(self, x: Tensor, _kinds: Sequence[int] = ()) -> Tensor:
        return super().forward(x)


class NoNorm(nn.Module):
    """No normalization."""

    def forward(self, x: Tensor, _kinds: Sequence[int] = ()) -> Tensor:
        return x


Norm = Callable[[int], nn.Module]
"""Builds a discriminator's normalization of a number of channels: (x, kinds) -> x."""


def no_norm(_channels: int) -> nn.Module:
    """Build no normalization."""
    return NoNorm()


def normalization(kind: str, eps: float) -> Norm:
    """Return the builder of a kind of normalization: `none`, `layer` or `batch`."""
    norms: dict[str, Norm] = {
        "none": no_norm,
        "layer": partial(LayerNorm, eps=eps),
        "batch": partial(KindwiseBatchNorm, eps=eps),
    }
    return norms[kind]


def first_blocks(network: nn.Module, blocks: int) -> dict[str, nn.Parameter]:
    """Return the weights, by name, of the first `blocks` blocks, their attention, and the layer before them.

    In G these are the layers of the lowest resolutions, in D those at the image (Mo et al. 2020). Class embeddings are
    left out: each row belongs to one class. For 0 blocks the result is empty.
    """
    if not blocks:
        return {}
    before = "linear" if isinstance(network, Generator) else "input_conv"
    first = {before, *(f"{part}.{k}" for part in ("blocks", "attention") for k in range(blocks))}
    return {
        f"{path}.{name}": weight
        for path, module in network.named_modules()
        if not isinstance(module, nn.Embedding) and ".".join(path.split(".")[:2]) in first
        for name, weight in module.named_parameters(recurse=False)
    }


def attention_after(stages: Iterable[tuple[int, int, int]], at: Collection[int], layers: Layers) -> nn.ModuleDict:
    """Build self-attention after each stage (index of its last block, width, pixels) whose resolution is in `at`."""
    return nn.ModuleDict({str(k): SelfAttention(width, layers) for k, width, pixels in stages if pixels in at})


def upsample(x: Tensor) -> Tensor:
    """Upsample [N, C, H, W] to [N, C, 2H, 2W] by nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def initialize(network: nn.Module, scheme: str) -> None:
    """Initialize every weight matrix: `orthogonal` (Saxe et al. 2014), `glorot` (uniform; Glorot & Bengio 2010) or
    `normal`, N(0, 0.02).

    Biases keep torch's default; gains of BatchNorm and attention keep the values their classes set.
    """
    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "orthogonal": nn.init.orthogonal_,
        "glorot": nn.init.xavier_uniform_,
        "normal": partial(nn.init.normal_, mean=0.0, std=0.02),
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            draws[scheme](module.weight)
