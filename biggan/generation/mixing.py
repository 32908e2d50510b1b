"""Classes between classes: points of the shared class embedding (Brock et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from biggan.errors import InputError
from biggan.models.networks import Generator


def shared_embedding(generator: Generator) -> nn.Embedding:
    """The embedding that all BatchNorms read; InputError for a generator that has none."""
    if generator.class_embedding is None:
        raise InputError(
            "classes cannot be mixed: this generator has no shared class embedding (model.class_embedding_dim: 0); "
            "use whole classes, or a generator that was trained with one"
        )
    return generator.class_embedding


@torch.no_grad()
def mix_classes(generator: Generator, mixtures: Sequence[Mapping[int, float]]) -> Tensor:
    """Class embeddings float32 [len(mixtures), class_embedding_dim], on the device, of weights by class number.

    Weights are at least 0, and are divided by their sum: the mixture {3: 1.0} is class 3, bit for bit. The embedding
    enters every BatchNorm's gain and bias linearly, so these are the weighted means of the classes' gains and biases.
    """
    embedding = shared_embedding(generator).weight
    rows = []
    for weights in mixtures:
        total = sum(weights.values())
        assert total > 0, weights
        assert min(weights.values()) >= 0, weights
        shares = torch.tensor(list(weights.values()), dtype=torch.float64, device=embedding.device) / total
        rows.append((shares[:, None] * embedding[list(weights)].double()).sum(0).float())
    return torch.stack(rows)
