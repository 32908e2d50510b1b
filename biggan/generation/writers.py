"""Outputs of bulk sampling: a folder of PNG files, or one tar file of webdataset samples."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biggan.errors import InputError
from biggan.files import sync_file, sync_folder, write_atomically
from biggan.generation.bulk import BulkRequest, Output

MANIFEST = "sampling.json"
"""File name of the request, beside its images: an interrupted command resumes only with the same request."""


def output_at(path: Path, request: BulkRequest) -> Output:
    """Return a tar file if `path` ends in .tar or .TAR, else a folder."""
    return Tar(path, request) if path.name.lower().endswith(".tar") else Folder(path, request)


def key(index: int) -> str:
    """Return the name of an image's files without suffix, as in packed data sets."""
    return f"{index:09d}"


class Folder:
    """Folder with DIR/000000012.png, flat as pytorch-fid reads it, and DIR/labels.csv, which is written last."""

    def __init__(self, path: Path, request: BulkRequest):
        self.path, self.request = path, request

    def prepare(self) -> list[range]:
        """Return the chunks with a file that is missing, or incomplete after a power failure."""
        prepare_folder(self.path, self.request, self.path)
        existing = {file.name for file in self.path.iterdir()}
        return [
            indices
            for indices in self.request.chunks()
            if not all(f"{key(k)}.png" in existing and is_complete_png(self.path / f"{key(k)}.png") for k in indices)
        ]

    def write(self, indices: range, images: NDArray[np.uint8]) -> None:
        """Write one file per image, without waiting for the disk: `prepare` checks which files reached it."""
        for index, image in zip(indices, images, strict=True):
            file = self.path / f"{key(index)}.png"
            partial = file.with_name(file.name + ".partial")
            partial.write_bytes(png(image))
            partial.replace(file)

    def finish(self) -> None:
        """Write labels.csv, with the columns file, label and class."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", "label", "class"])
        for index in range(self.request.images):
            k = index % len(self.request.labels)
            table.writerow([f"{key(index)}.png", self.request.labels[k], self.request.classes[k]])
        write_atomically(self.path / "labels.csv", text.getvalue())


class Tar:
    """Tar file of KEY.png and KEY.cls (the label as text), the sample format of webdataset and of packed data sets.

    All processes write chunks, as complete tar members, into a folder beside the file. At the end one process
    concatenates them.
    """

    def __init__(self, path: Path, request: BulkRequest):
        self.path, self.request = path, request
        self.parts = path.with_name(f".{path.name}.partial")

    def prepare(self) -> list[range]:
        """Return the chunks that have no part yet; raise InputError if the tar file exists."""
        if self.path.exists():
            raise InputError(f"--out: {self.path} exists already; remove it or choose another")
        prepare_folder(self.parts, self.request, self.path)
        return [indices for indices in self.request.chunks() if not self._part(indices).is_file()]

    def write(self, indices: range, images: NDArray[np.uint8]) -> None:
        """Write one part: the tar members of a chunk."""
        members = []
        for index, image in zip(indices, images, strict=True):
            label = self.request.labels[index % len(self.request.labels)]
            members += [member(f"{key(index)}.png", png(image)), member(f"{key(index)}.cls", str(label).encode())]
        write_atomically(self._part(indices), b"".join(members))

    def finish(self) -> None:
        """Concatenate the parts into the tar file, and remove them."""
        complete = self.parts / "whole"
        with complete.open("wb") as file:
            for indices in self.request.chunks():
                with self._part(indices).open("rb") as part:
                    shutil.copyfileobj(part, file, 2**20)
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end marker of a tar file
        sync_file(complete)
        complete.replace(self.path)
        sync_folder(self.path.parent)
        shutil.rmtree(self.parts, ignore_errors=True)

    def _part(self, indices: range) -> Path:
        return self.parts / f"{key(indices.start)}.part"


def prepare_folder(folder: Path, request: BulkRequest, out: Path) -> None:
    """Create `folder` for this request, or reopen it; raise InputError, which names `out`, if it has other content."""
    manifest = folder / MANIFEST
    now = json.loads(json.dumps(asdict(request)))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {out} is a file; choose a folder, or a name that ends in .tar")
    folder.mkdir(parents=True, exist_ok=True)
    if not manifest.exists():
        if any(file.name != f"{MANIFEST}.partial" for file in folder.iterdir()):
            raise InputError(f"--out: {out} has files that `biggan sample --num` did not write; choose another")
        write_atomically(manifest, json.dumps(now, indent=1) + "\n")
        return
    _check_same_request(manifest, now, out)


def _check_same_request(manifest: Path, now: dict[str, Any], out: Path) -> None:
    """Raise InputError, which names `out` and the first difference, unless `manifest` holds the request `now`."""
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{manifest}: not written by `biggan sample`; remove {manifest.parent} or choose another")
    if changed := [name for name in now if before.get(name) != now[name]]:
        name = changed[0]
        fix = "name the checkpoint, as in RUN@STEP, " if name == "generator" else "repeat that request to resume it, "
        raise InputError(
            f"--out: {out} holds images of another request ({name}: {before.get(name)} there, {now[name]} now); "
            f"{fix}or choose another"
        )


def is_complete_png(file: Path) -> bool:
    """Return True if a PNG file is complete and matches its own checksums."""
    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, SyntaxError):  # Pillow's errors for a corrupt PNG
        return False
    return True


def png(image: NDArray[np.uint8]) -> bytes:
    """Return the bytes of a PNG file. Level 4 takes two thirds of the default level's time, and files grow by 1%."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=4)
    return file.getvalue()


def member(name: str, content: bytes) -> bytes:
    """Return the bytes of a tar member, without time and owner: equal images give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
