"""Folders and zips of images: their files, and the classes that folders make."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from biggan.data.image import opened
from biggan.data.sources.image_source import ONE_CLASS, ImageSource, numbered
from biggan.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
STYLEGAN_LABELS = "dataset.json"


@dataclass(frozen=True)
class Tree:
    """The files of a folder or a zip, by their path in it."""

    origin: str
    files: list[str]
    read: Callable[[str], bytes]
    """Raises OSError."""

    def images(self) -> list[str]:
        """Those that look like images; raises InputError if none does."""
        found = [f for f in self.files if _is_image(f)]
        if not found:
            raise InputError(f"{self.origin}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return found

    def holds_images(self) -> bool:
        """Whether `images` finds any."""
        return any(_is_image(f) for f in self.files)

    def labelled(
        self, names: list[str], classes: list[str], of_each: list[str], notes: tuple[str, ...] = ()
    ) -> ImageSource:
        """The images `names` as a source, `of_each` the class of each of them."""
        return ImageSource(
            classes, names, numbered(of_each, classes), lambda k: opened(self.read(names[k])), notes=notes
        )

    def notes(self) -> tuple[str, ...]:
        """What lies there unused that may have been meant: labels of StyleGAN's, parquet files."""
        found = []
        if STYLEGAN_LABELS in self.files and _holds_labels(self):
            found.append(
                f"{self.origin}: its {STYLEGAN_LABELS} holds labels, which are not used; "
                f"if they are the classes, pack with --labels {STYLEGAN_LABELS}"
            )
        if parquet := [f for f in self.files if f.endswith(".parquet")]:
            found.append(
                f"{self.origin}: holds images, so '{parquet[0]}' is not used; give it as SOURCE if it is meant"
            )
        return tuple(found)


def _is_image(file: str) -> bool:
    path = PurePosixPath(file)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _holds_labels(tree: Tree) -> bool:
    try:
        content = json.loads(tree.read(STYLEGAN_LABELS))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and bool(content.get("labels"))


def folder(root: Path) -> Tree:
    """All files below `root`."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it elsewhere")

    files: list[str] = []
    for below, folders, names in os.walk(root, followlinks=True, onerror=refuse):  # class folders are often links
        folders[:] = [name for name in folders if not _leads_back(root, Path(below), name)]
        files += [(Path(below) / name).relative_to(root).as_posix() for name in names]
    return Tree(str(root), sorted(files), lambda name: (root / name).read_bytes())


def _leads_back(root: Path, below: Path, name: str) -> bool:
    """Whether `name` in the folder `below`, which was reached from `root`, is a link to a folder on the way there."""
    link = below / name
    way = (folder for folder in (below, *below.parents) if folder.is_relative_to(root))
    return link.is_symlink() and any(folder.resolve().is_relative_to(link.resolve()) for folder in way)


def archive(path: Path) -> Tree:
    """The files of a zip; raises InputError if it is cut short."""
    try:
        opened_zip = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: is no zip that can be read ({error}); copy it here again") from None
    # Some made on Windows have backslashes. Of several files of one path the last is the one that unzip leaves.
    members = {info.filename.replace("\\", "/"): info for info in opened_zip.infolist()}

    def read(name: str) -> bytes:
        try:
            return opened_zip.read(members[name])
        except Exception as error:  # a damaged or encrypted zip can raise nearly anything
            raise OSError(str(error)) from None

    return Tree(str(path), sorted(name for name in members if not name.endswith("/")), read)


def by_class_folder(tree: Tree) -> ImageSource:
    """The class is the first folder below any single folders around all; with no folder at all there is one class."""
    names = tree.images()
    paths = [PurePosixPath(f) for f in names]
    depth = 0
    while all(len(p.parts) > depth + 2 for p in paths) and len({p.parts[depth] for p in paths}) == 1:
        depth += 1
    loose = [p for p in paths if len(p.parts) == depth + 1]
    if loose and len(loose) < len(paths):
        raise InputError(
            f"{tree.origin}: '{loose[0]}' lies beside class folders; move it into one, or pack a folder of images "
            f"only, or with --labels or --unconditional"
        )
    of_each = [ONE_CLASS if loose else p.parts[depth] for p in paths]
    return tree.labelled(names, sorted(set(of_each)), of_each, tree.notes())


def in_one_class(tree: Tree) -> ImageSource:
    """All images, whatever folders there are."""
    names = tree.images()
    return tree.labelled(names, [ONE_CLASS], [ONE_CLASS] * len(names))
