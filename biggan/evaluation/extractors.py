"""Selection of the feature extractor that the user names."""

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
    """The name of an extractor (`inception`, `classifier` or `torchvision:NAME`) and its file of weights."""

    name: str = "inception"
    weights: Path | None = None
    """State dict of a torchvision model; required for `torchvision:NAME`, refused for others."""
    inception_weights: Path | None = None
    """Weights of `inception`; None for the file in torch's cache."""

    def __post_init__(self) -> None:
        torchvision = self.name.startswith(TORCHVISION)
        if not torchvision and self.name not in ("inception", "classifier"):
            raise InputError(f"--features: '{self.name}' is unknown; use inception, classifier or torchvision:NAME")
        if torchvision and self.weights is None:
            raise InputError(f"--weights: missing; {self.name} needs the file of its state dict")
        if not torchvision and self.weights is not None:
            raise InputError(f"--weights: not used by {self.name}; remove it, or use --features torchvision:NAME")
        if self.name != "inception" and self.inception_weights is not None:
            raise InputError(f"--inception-weights: not used by {self.name}; remove it, or use --features inception")


def open_extractor(features: Features, real: RealSplit, process: Process, tick: Tick) -> Extractor:
    """Return the extractor on this process's device; `classifier` is trained first if necessary. Collective.

    Raises InputError on every process.
    """
    if features.name == "classifier":
        return open_classifier(real.dataset, real.root, real.cache, process, tick)
    # Imported here because the classifier needs neither pytorch-fid nor torchvision, which take a second to import.
    from biggan.evaluation.pretrained import TorchvisionFeatures, open_inception  # noqa: PLC0415

    if features.name == "inception":
        return process.together(lambda: open_inception(features.inception_weights, process.device))
    weights = features.weights
    assert weights is not None, "Features checks this"
    name = features.name.removeprefix(TORCHVISION)
    return process.together(lambda: TorchvisionFeatures(name, weights, process.device))
