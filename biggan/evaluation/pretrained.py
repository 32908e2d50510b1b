"""Pretrained feature extractors: the Inception network that FID is defined with, and torchvision's classifiers."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.errors import InputError
from biggan.evaluation.features import Extracted, to_unit_interval
from biggan.files import sha256_of

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
"""File name of pytorch-fid's weights. It ends in the first 8 digits of their SHA-256."""
FEATURES, LOGITS, PIXELS = 2048, 1008, 299


class Inception:
    """An `Extractor`: pytorch-fid's network and resizing, its pool3 features, and logits without bias.

    The Inception Score has always been computed from logits without bias.
    """

    name = "inception"
    preprocessing = f"bilinear to {PIXELS} px, not antialiased, as pytorch-fid"  # compared between results: keep it
    dim, logits = FEATURES, LOGITS
    held_out_accuracy = None

    def __init__(self, weights: Mapping[str, Tensor], checksum: str, device: torch.device):
        """Load `weights`, a state dict of `fid_inception`; `checksum` identifies them."""
        network = fid_inception()
        network.load_state_dict(weights, assign=True)
        self.identity = f"inception {checksum} {self.preprocessing}"
        self._to_logits = network.fc.weight.detach().to(device)
        network.fc = nn.Identity()
        self._network = network.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Return features and logits, as `Extractor` specifies."""
        x = F.interpolate(to_unit_interval(images), size=(PIXELS, PIXELS), mode="bilinear", align_corners=False)
        features = self._network(2 * x - 1)
        return Extracted(features, features @ self._to_logits.T)


def fid_inception() -> torchvision.models.Inception3:
    """Return the network of pytorch-fid's `fid_inception_v3`, without weights (on the meta device).

    pytorch-fid's own function downloads the weights when it is called.
    """
    with torch.device("meta"):
        network = torchvision.models.inception_v3(num_classes=LOGITS, aux_logits=False, init_weights=False)
        network.Mixed_5b = FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = FIDInceptionE_1(1280)
        network.Mixed_7c = FIDInceptionE_2(2048)
    return network


def open_inception(file: Path | None, device: torch.device) -> Inception:
    """Return Inception with the weights in `file`, or in torch's cache if it is None.

    Raises InputError unless the checksum is that of pytorch-fid's weights.
    """
    path = file or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    if not path.is_file():
        raise InputError(
            f"{'--inception-weights' if file else '--features inception'}: {path}: no such file; download "
            f"{WEIGHTS_NAME} (pytorch-fid's release fid_weights) and pass it with --inception-weights FILE, or use "
            f"--features classifier or --features torchvision:NAME --weights FILE, whose metrics are not comparable"
        )
    checksum = checksum_of(path, "--inception-weights")
    expected = Path(WEIGHTS_NAME).stem.rpartition("-")[2]
    if not checksum.startswith(expected):
        raise InputError(
            f"--inception-weights: {path}: not {WEIGHTS_NAME} (its SHA-256 starts with {checksum[:8]}, "
            f"not {expected}); download that file again"
        )
    return Inception(read_weights(path, "--inception-weights"), checksum[:16], device)


class TorchvisionFeatures:
    """An `Extractor`: a torchvision classification network that ends in a linear layer.

    The features are the inputs of that layer. Images are resized and normalized as the network was trained.
    """

    held_out_accuracy = None

    def __init__(self, name: str, weights: Path, device: torch.device):
        """Load network `name`; raises InputError that names `--features` or `--weights`."""
        self.name = f"torchvision:{name}"
        with torch.device("meta"):
            network = _model(name)
        checksum = checksum_of(weights, "--weights")
        _load(network, name, weights)
        preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        self._pixels: int = preset.crop_size[0]
        self._mean, self._std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (preset.mean, preset.std))
        # Results and caches are matched by this text: keep it.
        self.preprocessing = f"bilinear to {self._pixels} px, antialiased, ImageNet's mean and deviation"
        self.identity = f"{self.name} {checksum[:16]} {self.preprocessing}"
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
        if not head:
            raise InputError(f"--features: {self.name} does not end in a linear layer; use, for example, resnet18")
        self.dim, self.logits = head[0].in_features, head[0].out_features
        self._features = torch.empty(0)
        head[0].register_forward_pre_hook(self._capture)
        self._network = network.to(device).eval()

    def _capture(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Return features and logits, as `Extractor` specifies."""
        size = (self._pixels, self._pixels)
        x = F.interpolate(to_unit_interval(images), size=size, mode="bilinear", antialias=True)
        logits = self._network((x - self._mean) / self._std)
        return Extracted(self._features, logits)


def _model(name: str) -> Any:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; nearest: torchvision:{near[0]}" if near else "; use, for example, torchvision:resnet18"
        raise InputError(f"--features: torchvision has no classification model '{name}'{hint}")
    return torchvision.models.get_model(name, weights=None)


def _load(network: nn.Module, name: str, file: Path) -> None:
    weights, expected = read_weights(file, "--weights"), network.state_dict()
    for key in expected.keys() & weights.keys():
        if (actual := weights[key].dtype) != (dtype := expected[key].dtype):
            dtypes = f"{str(actual).removeprefix('torch.')}, not {str(dtype).removeprefix('torch.')}"
            raise InputError(f"--weights: {file}: {key} is {dtypes}; save network.float().state_dict()")
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"--weights: {file}: not the weights of torchvision's {name} ({reason})") from None


def checksum_of(file: Path, flag: str) -> str:
    """Return the hexadecimal SHA-256 of a file of weights; raises InputError that names it."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"{flag}: {file}: cannot be read ({error.strerror or error}); name another file") from None


def read_weights(file: Path, flag: str) -> dict[str, Tensor]:
    """Return the state dict in a .pth file (torch.save) without executing code in it.

    Raises InputError that names the file.
    """
    try:
        corrupt = zipfile.is_zipfile(file) and _is_corrupt(file)
        loaded = None if corrupt else torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{flag}: {file}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception:  # the exception of torch's unpickler depends on the bytes, e.g. IndexError for some YAML
        raise InputError(f"{flag}: {file}: not a file of tensors alone; pass a state dict (torch.save)") from None
    if corrupt:
        raise InputError(f"{flag}: {file}: corrupt (a checksum in it does not match); copy or download it again")
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise InputError(f"{flag}: {file}: not a state dict (names and tensors); save network.state_dict()")
    return loaded


def _is_corrupt(file: Path) -> bool:
    """Return True if a zip file of torch.save fails its checksums, which torch.load does not verify."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError):
        return True
