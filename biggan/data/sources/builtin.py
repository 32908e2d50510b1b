"""Data sets from libraries: scikit-learn's digits and torchvision.datasets."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biggan.data.sources.image_source import ImageSource
from biggan.errors import InputError


def digits() -> ImageSource:
    """Return scikit-learn's 1,797 scans of handwritten digits, 8 x 8 pixels, 10 classes."""
    # scikit-learn takes a second to import, and only this source needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    scans = load_digits()
    pixels = np.rint(scans.images * (255 / 16)).astype(np.uint8)  # 17 grey levels
    return ImageSource(
        classes=[str(digit) for digit in range(10)],
        names=[f"digits/{k}" for k in range(len(pixels))],
        labels=[int(label) for label in scans.target],
        read=lambda k: Image.fromarray(pixels[k]),
    )


def torchvision(name: str, root: Path) -> ImageSource:
    """Open the class `name` of torchvision.datasets; its files are in `root` or downloaded to it. Raise InputError."""
    from torchvision import datasets  # noqa: PLC0415  (as above)

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and name in datasets.__all__):
        raise InputError(f"torchvision:{name}: torchvision.datasets has no '{name}'; check the spelling")
    accepted = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"root": str(root), "download": True}
    try:
        data = kind(**{key: value for key, value in arguments.items() if key in accepted})
        labels = [int(label) for label in getattr(data, "targets", None) or [data[k][1] for k in range(len(data))]]
    except Exception as error:  # torchvision passes on any error of the download or of the files
        reason = " ".join(str(error).split())
        raise InputError(f"torchvision:{name}: {reason} (files are expected in --torchvision-root {root})") from None
    classes = [str(c) for c in getattr(data, "classes", range(max(labels) + 1))]
    return ImageSource(classes, [f"{name}/{k}" for k in range(len(labels))], labels, lambda k: data[k][0])
