"""The Inception network that FID is defined with: pytorch-fid's network, weights and resizing, and its logits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torch.nn import functional as F

from biggan.errors import InputError
from biggan.evaluation.features import Extracted, to_unit_interval
from biggan.files import sha256_of

WEIGHTS_NAME = "pt_inception-2015-12-05-6726825d.pth"
"""pytorch-fid's file; the end of its name is the beginning of its SHA-256."""
FEATURES, LOGITS, PIXELS = 2048, 1008, 299


class Inception:
    """An `Extractor`: the pool3 features, and the logits without bias, as the Inception Score has always used them."""

    name = "inception"
    preprocessing = f"bilinear to {PIXELS} px, not antialiased, as pytorch-fid"
    dim, logits = FEATURES, LOGITS
    held_out_accuracy = None

    def __init__(self, weights: Mapping[str, Tensor], checksum: str, device: torch.device):
        """`weights` is the state dict of `fid_inception`; `checksum` names them."""
        network = fid_inception()
        network.load_state_dict(weights, assign=True)
        self.identity = f"inception {checksum} {self.preprocessing}"
        self._to_logits = network.fc.weight.detach().to(device)
        network.fc = nn.Identity()
        self._network = network.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """See `Extractor`."""
        x = F.interpolate(to_unit_interval(images), size=(PIXELS, PIXELS), mode="bilinear", align_corners=False)
        features = self._network(2 * x - 1)
        return Extracted(features, features @ self._to_logits.T)


def fid_inception() -> torchvision.models.Inception3:
    """The network of pytorch-fid's `fid_inception_v3`, which downloads its weights on being made; this has none yet."""
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


def open_inception(given: Path | None, device: torch.device) -> Inception:
    """With the weights in file `given`, or in torch's cache; raises InputError unless they are the true ones."""
    file = given or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    if not file.is_file():
        raise InputError(
            f"{'--inception-weights' if given else '--features inception'}: {file}: no such file; fetch "
            f"{WEIGHTS_NAME} (pytorch-fid's release fid_weights) and give it by --inception-weights FILE, or use "
            f"--features classifier or --features torchvision:NAME --weights FILE: other features, other numbers"
        )
    checksum = checksum_of(file, "--inception-weights")
    expected = Path(WEIGHTS_NAME).stem.rpartition("-")[2]
    if not checksum.startswith(expected):
        raise InputError(
            f"--inception-weights: {file}: not {WEIGHTS_NAME} (its SHA-256 begins with {checksum[:8]}, "
            f"not {expected}); fetch that file again"
        )
    return Inception(read_weights(file, "--inception-weights"), checksum[:16], device)


def checksum_of(file: Path, flag: str) -> str:
    """Hex SHA-256 of a file of weights; raises InputError that names it."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"{flag}: {file}: cannot be read ({error.strerror or error}); name another file") from None


def read_weights(file: Path, flag: str) -> dict[str, Tensor]:
    """The tensors of a .pth file (torch.save), nothing in it executed; raises InputError that names it."""
    try:
        damaged = zipfile.is_zipfile(file) and _damaged(file)
        loaded = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{flag}: {file}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception:  # what torch's unpickler raises depends on the bytes: an IndexError for some YAML
        raise InputError(f"{flag}: {file}: not a file of weights alone; give a state dict (torch.save)") from None
    if damaged:
        raise InputError(f"{flag}: {file}: is damaged (a checksum in it does not match); copy or fetch it again")
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise InputError(f"{flag}: {file}: not a state dict (names and tensors); save network.state_dict()")
    return loaded


def _damaged(file: Path) -> bool:
    """Whether a zip, as torch.save writes it, fails its checksums, which torch.load does not look at."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError):
        return True
