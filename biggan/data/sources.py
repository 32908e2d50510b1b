"""Where images come from before packing: a folder of class folders, a zip of the same, or a known data set.

A source lists its items without reading them, so that each packing process can open its own copy and read
just the items of its shards.
"""

from __future__ import annotations

import inspect
import io
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from biggan.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Source:
    """Labelled images: item k has the name `names[k]` and the class `classes[labels[k]]`."""

    classes: list[str]
    names: list[str]
    labels: list[int]
    read: Callable[[int], Image.Image]
    """Open item k; raises OSError, ValueError or another error of the decoder if it is damaged."""


@cache
def open_source(source: str, torchvision_root: str) -> Source:
    """Open `digits`, `torchvision:NAME`, a zip file or a folder; raises InputError if it is none of them.

    Kept open for the process's life: each packing process opens a source once, not once per shard.
    """
    if source == "digits":
        return _digits()
    if source.startswith("torchvision:"):
        return _torchvision(source.removeprefix("torchvision:"), Path(torchvision_root))
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _zip(path)
    if path.exists():
        raise InputError(f"{source}: neither a folder nor a zip file")
    raise InputError(f"{source}: no such folder or zip file (also known: digits, torchvision:NAME)")


def _folder(root: Path) -> Source:
    files = sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True)  # class folders are often links
        for name in names
    )
    classes, names, labels = _by_class_folder(files, str(root))
    return Source(classes, names, labels, lambda k: Image.open(root / names[k]))


def _zip(path: Path) -> Source:
    archive = zipfile.ZipFile(path)
    files = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    classes, names, labels = _by_class_folder(files, str(path))
    return Source(classes, names, labels, lambda k: Image.open(io.BytesIO(archive.read(names[k]))))


def _by_class_folder(files: Iterable[str], origin: str) -> tuple[list[str], list[str], list[int]]:
    """Classes, file names and labels; the class is the first folder below any single folders around all.

    Images with no folder at all are one class, "images".
    """
    paths = [PurePosixPath(f) for f in files]
    paths = [
        p
        for p in paths
        if p.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in p.parts)
    ]
    if not paths:
        raise InputError(f"{origin}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    depth = 0
    while all(len(p.parts) > depth + 2 for p in paths) and len({p.parts[depth] for p in paths}) == 1:
        depth += 1
    loose = [p for p in paths if len(p.parts) == depth + 1]
    if loose and len(loose) < len(paths):
        raise InputError(
            f"{origin}: '{loose[0]}' lies beside class folders; move it into one, or pack a folder of images only"
        )
    names = ["images" if loose else p.parts[depth] for p in paths]
    classes = sorted(set(names))
    index = {name: k for k, name in enumerate(classes)}
    return classes, [str(p) for p in paths], [index[name] for name in names]


def _digits() -> Source:
    # scikit-learn takes a second to import and only this source needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    scans = load_digits()
    pixels = np.rint(scans.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, 8 x 8 pixels
    return Source(
        classes=[str(digit) for digit in range(10)],
        names=[f"digits/{k}" for k in range(len(pixels))],
        labels=[int(label) for label in scans.target],
        read=lambda k: Image.fromarray(pixels[k]),
    )


def _torchvision(name: str, root: Path) -> Source:
    from torchvision import datasets  # noqa: PLC0415  (as above)

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and name in datasets.__all__):
        raise InputError(f"torchvision:{name}: torchvision.datasets has no '{name}'")
    accepted = inspect.signature(kind).parameters
    wanted: dict[str, Any] = {"root": str(root), "download": True}
    try:
        data = kind(**{key: value for key, value in wanted.items() if key in accepted})
        labels = [int(label) for label in getattr(data, "targets", None) or [data[k][1] for k in range(len(data))]]
    except Exception as error:  # torchvision raises whatever its download or its files raise
        reason = " ".join(str(error).split())
        raise InputError(f"torchvision:{name}: {reason} (files are looked for in {root})") from None
    classes = [str(c) for c in getattr(data, "classes", range(max(labels) + 1))]
    return Source(classes, [f"{name}/{k}" for k in range(len(labels))], labels, lambda k: data[k][0])
