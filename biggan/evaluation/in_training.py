"""What measures the averaged generator while a run trains, from the run's config."""

from __future__ import annotations

from pathlib import Path

from biggan.config import Config
from biggan.data.dataset import Dataset
from biggan.distributed.process import Process
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.extractors import Features, open_extractor
from biggan.evaluation.reference_statistics import RealSplit
from biggan.progress import Tick


def new_evaluator(config: Config, dataset: Dataset, process: Process, tick: Tick) -> Evaluator:
    """Reads the features' weights, or trains the classifier, and takes the real statistics. Collective.

    Raises InputError, on every process.
    """
    settings, real = config.evaluation, RealSplit(dataset, config.data.path.rstrip("/"))
    file = Path(settings.weights) if settings.weights else None
    inception = settings.features == "inception"
    features = Features(settings.features, None if inception else file, file if inception else None)
    extractor = open_extractor(features, real, process, tick)
    return Evaluator(real, extractor, Settings(num_images=settings.num_images), process, tick)
