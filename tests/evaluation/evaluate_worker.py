"""Run under torchrun: an evaluation, as JSON, and the checksums of the images it made."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from cheap import generator, silent

from biggan.data.dataset import load
from biggan.distributed.process import join
from biggan.evaluation import reference_statistics as real_module
from biggan.evaluation.classifier import LessonPlan, open_classifier
from biggan.evaluation.evaluate import Evaluator, Settings
from biggan.evaluation.reference_statistics import RealSplit

data, cache, out = sys.argv[1:]
os.environ["XDG_CACHE_HOME"] = cache
real_module.os.access = lambda *_: False  # a cache of this run's own
torch.set_num_threads(1)


class Watched:
    """An extractor that remembers what it was shown."""

    def __init__(self, extractor):
        self._extractor, self.seen = extractor, {}
        for name in ("name", "identity", "preprocessing", "dim", "logits", "held_out_accuracy"):
            setattr(self, name, getattr(extractor, name))

    def __call__(self, images):
        for image in images.cpu().numpy():
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            self.seen[digest] = self.seen.get(digest, 0) + 1
        return self._extractor(images)


with join(60) as process:
    real = RealSplit(load(Path(data)), data)
    course = LessonPlan(epochs=2, least_images=1)
    classifier = open_classifier(real.dataset, data, real.cache, process, silent, course)
    settings = Settings(num_images=660, subset_images=1000, per_class=True)
    halves = Evaluator(real, classifier, settings, process, silent).real_halves()
    watched = Watched(classifier)
    evaluator = Evaluator(real, watched, settings, process, silent)
    watched.seen.clear()
    result = evaluator(generator(), 0.8)
    seen = {}
    for share in process.gather(watched.seen):
        for digest, count in share.items():
            seen[digest] = seen.get(digest, 0) + count
    assert sum(seen.values()) == 660
    assert process.gather(result) == [result] * process.world_size
    prepared = generator().eval()
    found = evaluator.nearest_real(evaluator.images(prepared, [0, 1, 2], None)[0])
    if process.is_main:
        row = {
            "images": seen,
            "metrics": result.metrics,
            "fid_of_classes": result.per_class["fid"],
            "halves": halves,
            "neighbours": hashlib.sha256(found.images.numpy().tobytes()).hexdigest(),
        }
        Path(out).write_text(json.dumps(row))
