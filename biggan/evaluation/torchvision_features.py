"""The features of any classification network of torchvision that ends in a linear layer: what that layer is given."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.errors import InputError
from biggan.evaluation.features import Extracted, to_unit_interval
from biggan.evaluation.inception import checksum_of, read_weights


class TorchvisionFeatures:
    """An `Extractor`: a network's penultimate features and its logits, on images resized as it was trained with."""

    held_out_accuracy = None

    def __init__(self, name: str, weights: Path, device: torch.device):
        """Raises InputError that names `--features` or `--weights`."""
        self.name = f"torchvision:{name}"
        with torch.device("meta"):
            network = _model(name)
        checksum = checksum_of(weights, "--weights")
        _load(network, name, weights)
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        self._pixels: int = preset.crop_size[0]
        self._mean, self._std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (preset.mean, preset.std))
        self.preprocessing = f"bilinear to {self._pixels} px, antialiased, ImageNet's mean and deviation"
        self.identity = f"{self.name} {checksum[:16]} {self.preprocessing}"
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
        if not head:
            raise InputError(f"--features: {self.name} does not end in a linear layer; take resnet18, say")
        self.dim, self.logits = head[0].in_features, head[0].out_features
        self._seen = torch.empty(0)
        head[0].register_forward_pre_hook(self._look)
        self._network = network.to(device).eval()

    def _look(self, _head: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._seen = given[0]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """See `Extractor`."""
        size = (self._pixels, self._pixels)
        x = F.interpolate(to_unit_interval(images), size=size, mode="bilinear", antialias=True)
        logits = self._network((x - self._mean) / self._std)
        return Extracted(self._seen, logits)


def _model(name: str) -> Any:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; nearest: torchvision:{near[0]}" if near else "; take torchvision:resnet18, say"
        raise InputError(f"--features: torchvision has no classification model '{name}'{hint}")
    return torchvision.models.get_model(name, weights=None)


def _load(network: nn.Module, name: str, file: Path) -> None:
    weights, expected = read_weights(file, "--weights"), network.state_dict()
    for key in expected.keys() & weights.keys():
        if (found := weights[key].dtype) != (dtype := expected[key].dtype):
            kinds = f"{str(found).removeprefix('torch.')}, not {str(dtype).removeprefix('torch.')}"
            raise InputError(f"--weights: {file}: {key} is {kinds}; save network.float().state_dict()")
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"--weights: {file}: not those of torchvision's {name} ({reason})") from None
