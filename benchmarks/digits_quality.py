"""Measures the quality of a run on the digits with a classifier of the real scans.

    python benchmarks/digits_quality.py runs/digits

Prints two figures of 1,000 samples of the EMA generator, each overall and for the worst class. Accuracy is the fraction
that a support vector machine trained on the real digits assigns to the class they were conditioned on. Diversity is the
mean pairwise distance inside each class relative to that of the real data; a value near 0 is mode collapse.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import pairwise_distances
from sklearn.svm import SVC

from biggan.data.image import square
from biggan.data.sources.builtin import digits
from biggan.generation import load
from biggan.generation.sample import generate_rows

PER_CLASS = 100


def features(images: np.ndarray) -> np.ndarray:
    """Convert uint8 [N, 32, 32, 3] to the 8 x 8 grey levels of the original scans: [N, 64], 0 to 16."""
    grey = images.astype(np.float64).mean(-1) * (16 / 255)
    return grey.reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64)


def spread(x: np.ndarray) -> float:
    """Return the mean Euclidean distance between two different rows."""
    return float(pairwise_distances(x).sum() / (len(x) * (len(x) - 1)))


def quality(run: Path, seed: int = 0, per_class: int = PER_CLASS) -> dict[str, float]:
    """Return the four figures of the module's docstring for a run or one of its checkpoints."""
    source = digits()
    real = features(np.stack([np.asarray(square(source.read(k), 32)) for k in range(len(source.names))]))
    labels = load_digits().target
    classifier = SVC(gamma="scale", C=10).fit(real, labels)
    generator = load.open_generator(str(run), torch.device("cpu"), print).generator
    rows = generate_rows(generator, range(10), per_class, None, seed, torch.device("cpu"))
    fake = [features(row) for row in rows]
    accuracy = [float((classifier.predict(x) == k).mean()) for k, x in enumerate(fake)]
    diversity = [spread(x) / spread(real[labels == k]) for k, x in enumerate(fake)]
    return {
        "accuracy": float(np.mean(accuracy)),
        "worst_class_accuracy": min(accuracy),
        "diversity": float(np.mean(diversity)),
        "worst_class_diversity": min(diversity),
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 3) for name, value in quality(Path(sys.argv[1])).items()}))
