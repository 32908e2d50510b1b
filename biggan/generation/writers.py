"""Where many images go: a folder of PNG files, or one tar file of a webdataset's samples."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biggan.errors import InputError
from biggan.files import sync_file, sync_folder, write_atomically
from biggan.generation.bulk import BulkRequest, Output

MANIFEST = "sampling.json"
"""The request, beside its images: an interrupted one goes on only as itself."""


def output_at(path: Path, request: BulkRequest) -> Output:
    """A tar file if `path` ends in .tar, or .TAR, else a folder."""
    return Tar(path, request) if path.name.lower().endswith(".tar") else Folder(path, request)


def key(number: int) -> str:
    """The name of an image's files, as in packed data sets."""
    return f"{number:09d}"


class Folder:
    """DIR/000000012.png, flat as pytorch-fid and others read it, and DIR/labels.csv, which is written last."""

    def __init__(self, path: Path, request: BulkRequest):
        self.path, self.request = path, request

    def begin(self) -> list[range]:
        """The chunks that lack a file, or hold one that a power cut damaged."""
        open_folder(self.path, self.request, self.path)
        there = {file.name for file in self.path.iterdir()}
        return [
            numbers
            for numbers in self.request.chunks()
            if not all(f"{key(k)}.png" in there and is_whole(self.path / f"{key(k)}.png") for k in numbers)
        ]

    def write(self, numbers: range, images: NDArray[np.uint8]) -> None:
        """One file per image. None waits for the disk: `begin` looks whether they reached it."""
        for number, image in zip(numbers, images, strict=True):
            file = self.path / f"{key(number)}.png"
            partial = file.with_name(file.name + ".partial")
            partial.write_bytes(png(image))
            partial.replace(file)

    def finish(self) -> None:
        """Write labels.csv: file, label, class."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", "label", "class"])
        for number in range(self.request.images):
            which = number % len(self.request.labels)
            table.writerow([f"{key(number)}.png", self.request.labels[which], self.request.classes[which]])
        write_atomically(self.path / "labels.csv", text.getvalue())


class Tar:
    """One tar file of KEY.png and KEY.cls (the label as text), the samples of our data sets and of webdataset.

    Its chunks, written by all processes, are whole members that wait in a folder beside it; at last one process puts
    them together, which is copying.
    """

    def __init__(self, path: Path, request: BulkRequest):
        self.path, self.request = path, request
        self.parts = path.with_name(f".{path.name}.partial")

    def begin(self) -> list[range]:
        """The chunks that have no part yet."""
        if self.path.exists():
            raise InputError(f"--out: {self.path} is there already; remove it or choose another")
        open_folder(self.parts, self.request, self.path)
        return [numbers for numbers in self.request.chunks() if not self._part(numbers).is_file()]

    def write(self, numbers: range, images: NDArray[np.uint8]) -> None:
        """One part: the members of a chunk."""
        members = []
        for number, image in zip(numbers, images, strict=True):
            label = self.request.labels[number % len(self.request.labels)]
            members += [member(f"{key(number)}.png", png(image)), member(f"{key(number)}.cls", str(label).encode())]
        write_atomically(self._part(numbers), b"".join(members))

    def finish(self) -> None:
        """Put the parts together under the final name, and remove them."""
        whole = self.parts / "whole"
        with whole.open("wb") as file:
            for numbers in self.request.chunks():
                with self._part(numbers).open("rb") as part:
                    shutil.copyfileobj(part, file, 2**20)
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # how a tar file ends
        sync_file(whole)
        whole.replace(self.path)
        sync_folder(self.path.parent)
        shutil.rmtree(self.parts, ignore_errors=True)

    def _part(self, numbers: range) -> Path:
        return self.parts / f"{key(numbers.start)}.part"


def open_folder(folder: Path, request: BulkRequest, out: Path) -> None:
    """Begin `folder` for this request, or go on in it; raises InputError, which names `out`, if it is another's."""
    manifest = folder / MANIFEST
    now = json.loads(json.dumps(asdict(request)))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {out} is a file; choose a folder, or a name that ends in .tar")
    folder.mkdir(parents=True, exist_ok=True)
    if not manifest.exists():
        if any(file.name != f"{MANIFEST}.partial" for file in folder.iterdir()):
            raise InputError(f"--out: {out} is not empty and was not begun by `biggan sample --num`; choose another")
        write_atomically(manifest, json.dumps(now, indent=1) + "\n")
        return
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{manifest}: not what `biggan sample` writes; remove {folder} or choose another")
    if changed := [name for name in now if before.get(name) != now[name]]:
        name = changed[0]
        mend = "name the checkpoint, as in RUN@STEP, " if name == "generator" else "ask for the same to go on, "
        raise InputError(
            f"--out: {out} holds images of another request ({name}: {before.get(name)} there, {now[name]} now); "
            f"{mend}or choose another"
        )


def is_whole(file: Path) -> bool:
    """Whether a PNG file is there to its end, by its own checksums."""
    try:
        with Image.open(file) as image:
            image.verify()
    except (OSError, SyntaxError):  # what Pillow raises for a damaged PNG
        return False
    return True


def png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file's bytes; level 4 costs two thirds of the default's time and 1% of size."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=4)
    return file.getvalue()


def member(name: str, content: bytes) -> bytes:
    """A tar member's bytes; no time, no owner: equal images give equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
