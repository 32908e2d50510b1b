"""Local parquet files of images and labels, in the layout of the Hugging Face hub.

Files are read one row group at a time; each process keeps one row group in memory.
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

from biggan.data.image import open_image
from biggan.data.sources.image_source import ONE_CLASS, ImageSource, class_indices, sorted_class_names
from biggan.errors import InputError

NUMBERED = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(-[0-9a-f]+)?")
"""The hub's file names, without `.parquet`: train-00000-of-00005."""
SPLITS = {"train", "validation", "valid", "val", "test"}
"""Other names of files or folders that identify a split."""
IMAGE_COLUMNS = ("image", "img")


def files_of_split(root: Path, files: Sequence[str], split: str) -> list[Path]:
    """Return the files in `root` that contain `split`, or all files if no name identifies a split.

    Raise InputError if the split is missing or incomplete.
    """
    of_split: dict[str, list[str]] = {}
    for file in files:
        of_split.setdefault(_split_of(Path(file)), []).append(file)
    if set(of_split) == {""}:
        _refuse_several_sets(root, files)
        return [root / file for file in files]
    if split not in of_split:
        existing = ", ".join(sorted(of_split.keys() - {""}))
        raise InputError(f"--split: {root} has no split '{split}'; choose one of {existing}")
    members = of_split[split]
    _refuse_several_sets(root, members)
    for file in members:
        if (match := NUMBERED.fullmatch(Path(file).stem)) and int(match["of"]) > len(members):
            raise InputError(
                f"{root}: only {len(members)} of the {int(match['of'])} files of split '{split}' exist "
                f"(one is '{file}'); download the others"
            )
    return [root / file for file in members]


def _refuse_several_sets(root: Path, files: Sequence[str]) -> None:
    """Raise InputError if two files have the same number: the hub stores configurations in sibling folders."""
    first_of: dict[str, str] = {}
    for file in files:
        match = NUMBERED.fullmatch(Path(file).stem)
        other = first_of.setdefault(match["number"] if match else Path(file).name, file)
        if other != file:
            raise InputError(
                f"{root}: '{other}' and '{file}' look like two data sets; give the folder of one as SOURCE, "
                f"or give each as its own SOURCE to join them"
            )


def names_splits(files: Sequence[str]) -> bool:
    """Return True if any file's name identifies its split."""
    return any(_split_of(Path(file)) for file in files)


def _split_of(file: Path) -> str:
    if match := NUMBERED.fullmatch(file.stem):
        return match["split"]
    return next((name for name in (file.stem, *reversed(file.parent.parts)) if name in SPLITS), "")


class _File:
    """An open parquet file, with its image and label columns and the offsets of its row groups."""

    def __init__(self, path: Path, label_column: str):
        self.path = path
        try:
            self.parquet = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a readable parquet file ({reason}); download it again") from None
        self.schema: pa.Schema = self.parquet.schema_arrow
        self.image = _image_column(path, self.schema)
        self.label = label_column
        metadata = self.parquet.metadata
        self.starts = [0, *accumulate(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))]
        """First row of each row group, followed by the total number of rows."""

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def class_names(self) -> list[str] | None:
        """Return the class names that the hub's `datasets` library wrote into the schema, or None."""
        try:
            features = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[self.label]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return [str(name) for name in names] if isinstance(names, list) else None

    def labels(self) -> list[Any]:
        """Return the complete label column; raise InputError if it is missing or unreadable."""
        if self.label not in self.schema.names:
            raise InputError(
                f"{self.path}: has no column '{self.label}', only {', '.join(self.schema.names)}; "
                f"choose the label column with --label-column, or pack with --unconditional"
            )
        try:
            return self.parquet.read(columns=[self.label]).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.path}: column '{self.label}' cannot be read ({reason}); download it again"
            ) from None

    def images(self, row_group: int) -> pa.ChunkedArray:
        """Return the image column of one row group, as bytes of image files."""
        struct = pa.types.is_struct(self.schema.field(self.image).type)
        table = self.parquet.read_row_group(row_group, [f"{self.image}.bytes" if struct else self.image])
        return table.column(0)


def _image_column(path: Path, schema: pa.Schema) -> str:
    """Return the struct {bytes, path} or binary column named `image` or `img`, or the only such column."""
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in candidates]
    if not named and len(candidates) != 1:
        count = f"{len(candidates)} image columns ({', '.join(candidates)})" if candidates else "no image column"
        raise InputError(
            f"{path}: has {count} among {', '.join(schema.names)}; rename the one to pack to 'image' "
            f"(binary, or a struct of bytes and path)"
        )
    return named[0] if named else candidates[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def open_parquet(root: Path, files: Sequence[Path], label_column: str, labelled: bool) -> ImageSource:
    """Return all rows of `files` in the folder `root` as one source; raise InputError.

    Without `labelled` all images are in one class. Otherwise the classes are the schema's class names, or else the
    sorted labels.
    """
    parts = [_File(path, label_column) for path in files]
    names = [f"{part.path.relative_to(root).as_posix()}#{row}" for part in parts for row in range(part.rows)]
    if not names:
        raise InputError(f"{files[0]}: has no rows; give a file with images")
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
            raise ValueError("the row has no image bytes (null)")
        return open_image(data)

    return ImageSource(classes, names, labels, read)


def _classes(parts: Sequence[_File]) -> tuple[list[str], list[int]]:
    """Return the class names and the class index of every row; raise InputError for invalid labels."""
    names = parts[0].class_names()
    for part in parts:
        if part.class_names() != names:
            raise InputError(
                f"{part.path}: class names differ from those of {parts[0].path}; give files of one data set as SOURCE"
            )
    values: list[Any] = []
    for part in parts:
        for row, label in enumerate(part.labels()):
            if not isinstance(label, int | str) or isinstance(label, bool):
                raise InputError(
                    f"{part.path}: row {row}: label {label!r:.40} is not an integer or a string; "
                    f"choose another --label-column"
                )
            if isinstance(label, int) and not 0 <= label < (len(names) if names else 2**31):
                raise InputError(
                    f"{part.path}: row {row}: label {label} is out of range"
                    + (f" for {len(names)} classes; " if names else "; ")
                    + "-1 marks unknown labels: pack another split, or with --unconditional"
                )
            values.append(label)
    if not names and len({type(label) for label in values}) > 1:
        raise InputError(f"{parts[0].path}: some labels are integers, some strings; give files of one data set")
    classes = names or sorted_class_names(str(label) for label in values)
    if names and (unknown := {label for label in values if isinstance(label, str)}.difference(names)):
        raise InputError(
            f"{parts[0].path}: label '{min(unknown)}' is not one of the schema's class names; "
            f"choose another --label-column"
        )
    if names:  # an integer is kept: it tells apart classes with the same name
        return classes, [label if isinstance(label, int) else names.index(label) for label in values]
    return classes, class_indices([str(label) for label in values], classes)
