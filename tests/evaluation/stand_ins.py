"""Stand-ins for tests: an extractor without a network, a small generator, a short classifier training."""

import torch
from torch.nn import functional as F

from biggan.evaluation.classifier import ClassifierPlan
from biggan.evaluation.features import Extracted, to_unit_interval
from biggan.models.biggan import BigGANGenerator
from biggan.models.networks import initialize

SHORT = ClassifierPlan(epochs=1, least_images=8_000)
"""Trains the classifier of the digits in seconds."""


class Tiles:
    """An `Extractor`: 4 x 4 averaged tiles as features, and their first ten columns as logits."""

    name, preprocessing, dim, logits = "tiles", "4 x 4 tiles", 48, 10
    held_out_accuracy = 0.5

    def __init__(self, identity="tiles 1 4 x 4 tiles", fails_at=None):
        self.identity, self.calls, self.fails_at = identity, 0, fails_at

    def __call__(self, images):
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        features = F.adaptive_avg_pool2d(to_unit_interval(images), 4).flatten(1)
        return Extracted(features, features[:, :10] * 20)


def generator():
    torch.manual_seed(0)
    network = BigGANGenerator(32, 2, classes=10, z_dim=8, class_embedding_dim=4, hierarchical=False)
    initialize(network, "orthogonal")
    return network


def silent(_what, _done, _of):
    pass
