"""Fixture: a classifier of the digits, trained once for all tests of evaluation."""

import pytest
import torch
from stand_ins import SHORT

from biggan.data.dataset import load
from biggan.distributed.process import Process
from biggan.evaluation.classifier import open_classifier


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """The classifier, its cache folder, and its progress ticks."""
    cache, ticks = tmp_path_factory.mktemp("cache"), []
    alone = Process(0, 1, torch.device("cpu"), None)
    classifier = open_classifier(load(digits), str(digits), cache, alone, lambda *tick: ticks.append(tick), SHORT)
    return classifier, cache, ticks
