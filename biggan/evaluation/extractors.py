"""The extractor that a user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from biggan.distributed.process import Process
from biggan.errors import InputError
from biggan.evaluation.classifier import open_classifier
from biggan.evaluation.features import Extractor
from biggan.evaluation.reference_statistics import RealSplit
from biggan.progress import Tick

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Features:
    """`inception`, `classifier` or `torchvision:NAME`, and the files of weights that the first and the last need."""

    name: str = "inception"
    weights: Path | None = None
    """Of a torchvision model."""
    inception_weights: Path | None = None
    """None: torch's cache."""

    def __post_init__(self) -> None:
        torchvision = self.name.startswith(TORCHVISION)
        if not torchvision and self.name not in ("inception", "classifier"):
            raise InputError(f"--features: '{self.name}'; use inception, classifier or torchvision:NAME")
        if torchvision and self.weights is None:
            raise InputError(f"--weights: missing; {self.name} needs a file of its weights")
        if not torchvision and self.weights is not None:
            raise InputError(f"--weights: {self.name} takes none; leave it out, or use --features torchvision:NAME")
        if self.name != "inception" and self.inception_weights is not None:
            raise InputError(f"--inception-weights: {self.name} takes none; leave it out, or use --features inception")


def open_extractor(features: Features, real: RealSplit, process: Process, tick: Tick) -> Extractor:
    """The extractor on this process's device; `classifier` is trained first if need be. Collective.

    Raises InputError on every process.
    """
    if features.name == "classifier":
        return open_classifier(real.dataset, real.root, real.cache, process, tick)
    if features.name == "inception":
        # Only here: the classifier needs neither pytorch-fid nor torchvision, which take a second to import.
        from biggan.evaluation.inception import open_inception  # noqa: PLC0415

        return process.together(lambda: open_inception(features.inception_weights, process.device))
    from biggan.evaluation.torchvision_features import TorchvisionFeatures  # noqa: PLC0415  # as above

    weights = features.weights
    assert weights is not None, "checked where the features were named"
    name = features.name.removeprefix(TORCHVISION)
    return process.together(lambda: TorchvisionFeatures(name, weights, process.device))
