"""Fold spectral norm into the weights, for networks that are used and no longer trained."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from biggan.models.layers import SNConv2d, SNEmbedding, SNLinear, SpectralNorm

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def folded(network: Network) -> Network:
    """Return a copy in evaluation mode whose spectrally normalized layers are plain torch layers.

    The copy's weights are the normalized weights of `network` in evaluation mode, under the same names; the vectors
    `u` are gone. A network without such layers is only copied. One on torch's `meta` device stays there.
    """
    copied = copy.deepcopy(network).eval()
    for path, layer in list(copied.named_modules()):
        if isinstance(layer, SpectralNorm):
            copied.set_submodule(path, _plain(layer))
    return copied.eval()


def _plain(layer: SpectralNorm) -> nn.Module:
    # On "meta": random initial weights would cost time and advance torch's random state.
    plain: nn.Conv2d | nn.Linear | nn.Embedding
    if isinstance(layer, SNConv2d):
        size = layer.kernel_size[0]
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, size, padding=size // 2, bias=False, device="meta")
    elif isinstance(layer, SNLinear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    else:
        assert isinstance(layer, SNEmbedding)
        plain = nn.Embedding(layer.num_embeddings, layer.embedding_dim, device="meta")
    # torch has no autocast for "meta", so there is no normalized weight: take the weight, which has its shape.
    weight = layer.weight if layer.weight.is_meta else layer.normalized_weight()
    plain.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    if isinstance(layer, SNConv2d | SNLinear):
        plain.bias = layer.bias
    return plain
