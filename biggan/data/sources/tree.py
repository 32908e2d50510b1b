"""Folders and zips of images: their files, and classes from their folders."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from biggan.data.image import open_image
from biggan.data.sources.image_source import ONE_CLASS, ImageSource, class_indices, sorted_class_names
from biggan.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
STYLEGAN_LABELS = "dataset.json"
MAX_FILE_BYTES = 256 * 2**20
"""Bound of one file: a zip of a few kilobytes can hold a member of terabytes."""


@dataclass(frozen=True)
class Tree:
    """The files of a folder or a zip, by relative path."""

    origin: str
    files: list[str]
    read: Callable[[str], bytes]
    """Function that returns a file's bytes; raises OSError."""

    def images(self) -> list[str]:
        """Return the files with an image suffix; raise InputError if there are none."""
        names = [f for f in self.files if _is_image(f)]
        if not names:
            raise InputError(f"{self.origin}: contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return names

    def holds_images(self) -> bool:
        """Return True if any file has an image suffix."""
        return any(_is_image(f) for f in self.files)

    def labelled_source(
        self, names: list[str], classes: list[str], class_names: list[str], notes: tuple[str, ...] = ()
    ) -> ImageSource:
        """Return the images `names` as a source; `class_names` gives the class of each image."""
        labels = class_indices(class_names, classes)
        return ImageSource(classes, names, labels, lambda k: open_image(self.read(names[k])), notes=notes)

    def notes(self) -> tuple[str, ...]:
        """Return notes on unused files that the user may have meant: StyleGAN's labels, parquet files."""
        notes = []
        if STYLEGAN_LABELS in self.files and _holds_labels(self):
            notes.append(
                f"{self.origin}: its {STYLEGAN_LABELS} contains labels, which are not used; "
                f"to use them as classes, pack with --labels {STYLEGAN_LABELS}"
            )
        if parquet := [f for f in self.files if f.endswith(".parquet")]:
            notes.append(f"{self.origin}: contains images, so '{parquet[0]}' is not used; to use it, give it as SOURCE")
        return tuple(notes)


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


def read_bounded(stream: IO[bytes]) -> bytes:
    """Return what is left of a file; raise OSError if it is longer than `MAX_FILE_BYTES`."""
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"holds more than {MAX_FILE_BYTES // 2**20} MiB; no image or label file is as large")
    return content


def read_file_bounded(path: Path) -> bytes:
    """Return the content of a file; raise OSError if it is longer than `MAX_FILE_BYTES`."""
    with path.open("rb") as stream:
        return read_bounded(stream)


def folder_tree(root: Path) -> Tree:
    """List all files under `root`, following links; raise InputError for an unreadable folder."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it away")

    files: list[str] = []
    for current, folders, names in os.walk(root, followlinks=True, onerror=refuse):  # class folders are often links
        folders[:] = [name for name in folders if not _is_loop(root, Path(current), name)]
        files += [(Path(current) / name).relative_to(root).as_posix() for name in names]
    return Tree(str(root), sorted(files), lambda name: read_file_bounded(root / name))


def _is_loop(root: Path, current: Path, name: str) -> bool:
    """Return True if `name` in the folder `current` is a link to one of the folders between `root` and `current`."""
    link = current / name
    parents = (folder for folder in (current, *current.parents) if folder.is_relative_to(root))
    return link.is_symlink() and any(folder.resolve().is_relative_to(link.resolve()) for folder in parents)


def zip_tree(path: Path) -> Tree:
    """List the files of a zip; raise InputError if it is truncated."""
    try:
        opened_zip = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a readable zip ({error}); copy it again") from None
    # Some zips made on Windows use backslashes. If a path occurs several times, unzip keeps the last file.
    members = {info.filename.replace("\\", "/"): info for info in opened_zip.infolist()}

    def read(name: str) -> bytes:
        try:
            with opened_zip.open(members[name]) as stream:
                return read_bounded(stream)
        except Exception as error:  # zipfile raises nearly any type for a corrupt or encrypted zip
            raise OSError(str(error)) from None

    return Tree(str(path), sorted(name for name in members if not name.endswith("/")), read)


def by_class_folder(tree: Tree) -> ImageSource:
    """Return the images with their class folder's name as label; raise InputError for images beside class folders.

    Single folders that enclose everything are skipped. Without any folder all images are in one class.
    """
    names = tree.images()
    paths = [PurePosixPath(f) for f in names]
    depth = 0
    while all(len(p.parts) > depth + 2 for p in paths) and len({p.parts[depth] for p in paths}) == 1:
        depth += 1
    loose = [p for p in paths if len(p.parts) == depth + 1]
    if loose and len(loose) < len(paths):
        raise InputError(
            f"{tree.origin}: '{loose[0]}' is beside class folders; move it into a class folder, or pack with "
            f"--labels or --unconditional"
        )
    class_names = [ONE_CLASS if loose else p.parts[depth] for p in paths]
    return tree.labelled_source(names, sorted_class_names(class_names), class_names, tree.notes())


def in_one_class(tree: Tree) -> ImageSource:
    """Return all images in one class; folders are ignored."""
    names = tree.images()
    return tree.labelled_source(names, [ONE_CLASS], [ONE_CLASS] * len(names))
