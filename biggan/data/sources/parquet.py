"""Parquet files of images and labels, as the Hugging Face hub lays them out; local files only.

Read a row group at a time: memory holds one per process.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from biggan.data.image import opened
from biggan.data.sources.image_source import ONE_CLASS, ImageSource, numbered
from biggan.errors import InputError

NUMBERED = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(-[0-9a-f]+)?")
"""A file's name without `.parquet`, as the hub writes it: train-00000-of-00005."""
SPLITS = {"train", "validation", "valid", "val", "test"}
"""What else says by its name, or its folder's, which split it is."""
IMAGE_COLUMNS = ("image", "img")


def files_of_split(root: Path, files: Sequence[str], split: str) -> list[Path]:
    """Those of `files` in the folder `root` that hold the split; all of them where none says which it holds.

    Raises InputError if the split is not there, or not all of its files are.
    """
    of_split: dict[str, list[str]] = {}
    for file in files:
        of_split.setdefault(_split_of(Path(file)), []).append(file)
    if set(of_split) == {""}:
        _refuse_several_sets(root, files)
        return [root / file for file in files]
    if split not in of_split:
        there = ", ".join(sorted(of_split.keys() - {""}))
        raise InputError(f"--split: {root} has no split '{split}'; it has {there}")
    found = of_split[split]
    _refuse_several_sets(root, found)
    for file in found:
        if (match := NUMBERED.fullmatch(Path(file).stem)) and int(match["of"]) > len(found):
            raise InputError(
                f"{root}: {len(found)} of the {int(match['of'])} files of split '{split}' are there "
                f"(one is '{file}'); fetch the others"
            )
    return [root / file for file in found]


def _refuse_several_sets(root: Path, files: Sequence[str]) -> None:
    """The hub keeps configurations in folders side by side: each has a first file of the split, and a second."""
    first_of: dict[str, str] = {}
    for file in files:
        match = NUMBERED.fullmatch(Path(file).stem)
        other = first_of.setdefault(match["number"] if match else Path(file).name, file)
        if other != file:
            raise InputError(
                f"{root}: are '{other}' and '{file}' of two data sets? Give the folder of one as SOURCE; "
                f"or each as a SOURCE of its own, and they are one"
            )


def says_splits(files: Sequence[str]) -> bool:
    """Whether some file says by its name which split it is of."""
    return any(_split_of(Path(file)) for file in files)


def _split_of(file: Path) -> str:
    if match := NUMBERED.fullmatch(file.stem):
        return match["split"]
    return next((name for name in (file.stem, *reversed(file.parent.parts)) if name in SPLITS), "")


class _File:
    """One parquet file, opened: which columns matter, where its row groups begin."""

    def __init__(self, path: Path, label_column: str):
        self.path = path
        try:
            self.parquet = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: is no parquet file that can be read ({reason}); fetch it again") from None
        self.schema: pa.Schema = self.parquet.schema_arrow
        self.image = _image_column(path, self.schema)
        self.label = label_column
        metadata = self.parquet.metadata
        self.starts = [0, *accumulate(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))]
        """First row of each row group, and the number of rows."""

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def class_names(self) -> list[str] | None:
        """What the hub's `datasets` wrote into the schema, if it did."""
        try:
            features = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[self.label]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return [str(name) for name in names] if isinstance(names, list) else None

    def labels(self) -> list[Any]:
        """The label column, whole."""
        if self.label not in self.schema.names:
            raise InputError(
                f"{self.path}: has no column '{self.label}', only {', '.join(self.schema.names)}; name the labels' "
                f"with --label-column, or pack with --unconditional"
            )
        try:
            return self.parquet.read(columns=[self.label]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.path}: column '{self.label}' cannot be read ({reason}); fetch it again") from None

    def images(self, row_group: int) -> pa.ChunkedArray:
        """The image column of one row group: its files' bytes."""
        struct = pa.types.is_struct(self.schema.field(self.image).type)
        table = self.parquet.read_row_group(row_group, [f"{self.image}.bytes" if struct else self.image])
        return table.column(0)


def _image_column(path: Path, schema: pa.Schema) -> str:
    """The struct {bytes, path} or binary column named `image` or `img`, or the only one."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in found]
    if not named and len(found) != 1:
        what = f"{len(found)} columns of images, {', '.join(found)}" if found else "no column of images"
        raise InputError(
            f"{path}: has {what} among {', '.join(schema.names)}; name the one to pack 'image' "
            f"(bytes, or a struct of bytes and path)"
        )
    return named[0] if named else found[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def open_parquet(root: Path, files: Sequence[Path], label_column: str, labelled: bool) -> ImageSource:
    """All rows of all files, which lie in `root`; without `labelled`, in one class. Raises InputError.

    The classes are the schema's class names, else the labels found: as numbers, or by name.
    """
    parts = [_File(path, label_column) for path in files]
    names = [f"{part.path.relative_to(root).as_posix()}#{row}" for part in parts for row in range(part.rows)]
    if not names:
        raise InputError(f"{files[0]}: has no rows; give a file that has some")
    classes, labels = _classes(parts) if labelled else ([ONE_CLASS], [0] * len(names))
    firsts = [0, *accumulate(part.rows for part in parts)]

    @lru_cache(maxsize=1)
    def row_group(file: int, number: int) -> pa.ChunkedArray:
        return parts[file].images(number)

    def read(k: int) -> Image.Image:
        file = bisect_right(firsts, k) - 1
        row = k - firsts[file]
        number = bisect_right(parts[file].starts, row) - 1
        value = row_group(file, number)[row - parts[file].starts[number]].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise ValueError("the row holds no image's bytes (null)")
        return opened(data)

    return ImageSource(classes, names, labels, read, in_groups=True)


def _classes(parts: Sequence[_File]) -> tuple[list[str], list[int]]:
    """Class names and each row's number among them."""
    names = parts[0].class_names()
    for part in parts:
        if part.class_names() != names:
            raise InputError(
                f"{part.path}: has other class names than {parts[0].path}; give the files of one data set as SOURCE"
            )
    found: list[Any] = []
    for part in parts:
        for row, label in enumerate(part.labels()):
            if not isinstance(label, int | str) or isinstance(label, bool):
                raise InputError(f"{part.path}: row {row}: label {label!r:.40} is neither a number nor a name")
            if isinstance(label, int) and not 0 <= label < (len(names) if names else 2**31):
                raise InputError(
                    f"{part.path}: row {row}: label {label} is no class"
                    + (f", there are {len(names)}; " if names else "; ")
                    + "(-1 stands for unknown labels: pack another split, or with --unconditional)"
                )
            found.append(label)
    if not names and len({type(label) for label in found}) > 1:
        raise InputError(f"{parts[0].path}: some labels are numbers, some names; give the files of one data set")
    classes = names or [str(c) for c in sorted(set(found))]
    if names and (strangers := {label for label in found if isinstance(label, str)}.difference(names)):
        raise InputError(f"{parts[0].path}: label '{min(strangers)}' is none of the schema's class names")
    if names:  # a number says which of several classes of one name
        return classes, [label if isinstance(label, int) else names.index(label) for label in found]
    return classes, numbered([str(label) for label in found], classes)
