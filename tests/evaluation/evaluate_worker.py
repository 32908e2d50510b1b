"""Run under torchrun: write an evaluation and the checksums of its images as JSON."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from stand_ins import generator, silent

from biggan.data.dataset import load
from biggan.distributed.process import join
from biggan.evaluation import reference_statistics as real_module
from biggan.evaluation.classifier import ClassifierPlan, open_classifier
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.reference_statistics import RealSplit

data, cache, out = sys.argv[1:]
os.environ["XDG_CACHE_HOME"] = cache
real_module.os.access = lambda *_: False  # so that this run has its own cache
torch.set_num_threads(1)


class Recorder:
    """An extractor that counts the images it receives, by checksum."""

    def __init__(self, extractor):
        self._extractor, self.counts = extractor, {}
        for name in ("name", "identity", "preprocessing", "dim", "logits", "held_out_accuracy"):
            setattr(self, name, getattr(extractor, name))

    def __call__(self, images):
        for image in images.cpu().numpy():
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            self.counts[digest] = self.counts.get(digest, 0) + 1
        return self._extractor(images)


with join(60) as process:
    real = RealSplit(load(Path(data)), data)
    plan = ClassifierPlan(epochs=2, least_images=1)
    classifier = open_classifier(real.dataset, data, real.cache, process, silent, plan)
    settings = Settings(num_images=660, subset_images=1000, per_class=True)
    halves = Evaluator(real, classifier, settings, process, silent).real_halves()
    recorder = Recorder(classifier)
    evaluator = Evaluator(real, recorder, settings, process, silent)
    recorder.counts.clear()
    result = evaluator(generator(), 0.8)
    counts = {}
    for part in process.gather(recorder.counts):
        for digest, count in part.items():
            counts[digest] = counts.get(digest, 0) + count
    assert sum(counts.values()) == 660
    assert process.gather(result) == [result] * process.world_size
    prepared = generator().eval()
    neighbours = evaluator.nearest_real(evaluator.generate(prepared, [0, 1, 2], None)[0])
    if process.is_main:
        row = {
            "images": counts,
            "metrics": result.metrics,
            "fid_of_classes": result.per_class["fid"],
            "halves": halves,
            "neighbours": hashlib.sha256(neighbours.images.numpy().tobytes()).hexdigest(),
        }
        Path(out).write_text(json.dumps(row))
