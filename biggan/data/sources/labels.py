"""`--labels FILE`: classes of the images in a folder or zip, read from CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from biggan.data.sources.image_source import ImageSource, sorted_class_names
from biggan.data.sources.tree import Tree, read_file_bounded
from biggan.errors import InputError

PATH_HEADINGS = ("path", "file_name", "filename")
"""Accepted headings of a CSV's path column; image folders on the Hugging Face hub use `file_name`."""
Pair = tuple[str, str, str]
"""Tuple (position in the file, as in "line 3"; path; label)."""


def by_file(tree: Tree, file: str) -> ImageSource:
    """Return the tree's images with the labels in `file`, a local path or a path in the tree; raise InputError.

    Classes are sorted as numbers if all labels are numbers, else as strings. Every image needs exactly one label, and
    every label an image.
    """
    label_of: dict[str, str] = {}
    for position, path, label in _pairs(file, _text(tree, file)):
        name = PurePosixPath(path).as_posix()
        if not label:
            raise InputError(f"--labels: {file}: {position}: '{path}' has an empty label; name its class")
        if name in label_of:
            raise InputError(f"--labels: {file}: {position}: '{path}' is listed twice; keep one label")
        label_of[name] = label
    names = tree.images()
    _check_matched(tree, file, names, label_of)
    classes = sorted_class_names(label_of.values())
    return tree.labelled_source(names, classes, [label_of[name] for name in names])


def _check_matched(tree: Tree, file: str, names: list[str], label_of: dict[str, str]) -> None:
    images = set(names)
    if unknown := [path for path in label_of if path not in images]:
        raise InputError(
            f"--labels: {file}: {len(unknown)} of its {len(label_of)} paths are not images in {tree.origin}, first "
            f"'{unknown[0]}'; write paths relative to SOURCE, as in '{names[0]}'"
        )
    if unlabelled := [name for name in names if name not in label_of]:
        raise InputError(
            f"--labels: {file}: {len(unlabelled)} of {len(names)} images in {tree.origin} have no label, first "
            f"'{unlabelled[0]}'; add their labels, or move them out of SOURCE"
        )


def _text(tree: Tree, file: str) -> str:
    try:
        if Path(file).is_file():
            data = read_file_bounded(Path(file))
        elif file in tree.files:
            data = tree.read(file)
        else:
            raise InputError(f"--labels: {file}: no such file, neither here nor in {tree.origin}; check the path")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels: {file}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"--labels: {file}: contains a NUL character; save it as UTF-8 text")
    return text


def _pairs(file: str, text: str) -> Iterator[Pair]:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix == ".csv":
        return _readable(file, _from_csv(file, text))
    if suffix == ".json":
        return _from_json(file, text)
    raise InputError(f"--labels: {file}: not a .csv or .json file; write 'path,label' lines to a .csv file")


def _readable(file: str, pairs: Iterator[Pair]) -> Iterator[Pair]:
    try:
        yield from pairs
    except csv.Error as error:
        raise InputError(f"--labels: {file}: cannot be read as CSV ({error}); is a quote not closed?") from None


def _from_csv(file: str, text: str) -> Iterator[Pair]:
    """Yield pairs from the columns `path` and `label`, or from exactly two columns if there is no such heading."""
    rows = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True)
    columns: tuple[int, int] | None = None
    for row in rows:
        heading = [cell.strip().lower() for cell in row]
        if columns is None:
            path = next((name for name in PATH_HEADINGS if name in heading), "")
            columns = (heading.index(path), heading.index("label")) if path and "label" in heading else (0, 1)
            if path and "label" in heading:
                width = len(row)
                continue
            width = 2
        if not row:
            continue
        if len(row) != width:
            raise InputError(
                f"--labels: {file}: line {rows.line_num}: {len(row)} columns, expected {width}; without a heading "
                f"'path,label' write a path and a label, and put names with commas in quotes"
            )
        yield f"line {rows.line_num}", row[columns[0]].strip(), row[columns[1]].strip()


def _from_json(file: str, text: str) -> Iterator[Pair]:
    """Yield pairs from `{"labels": [[path, label], ...]}`, StyleGAN's format, or from `{path: label}`."""
    try:
        content = json.loads(text, object_pairs_hook=_refuse_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--labels: {file}: cannot be read as JSON ({error}); fix the file") from None
    if not isinstance(content, dict):
        raise InputError(f'--labels: {file}: write {{"labels": [[path, label], ...]}} or {{path: label}}')
    pairs: Iterable[object] = content.items()
    if isinstance(content.get("labels", 0), list | None):
        pairs = content["labels"] or ()
        if not pairs:
            raise InputError(f"--labels: {file}: contains no labels; pack with --unconditional instead")
    for number, pair in enumerate(pairs):
        match pair:
            case [str(path), str() | int() as label] if not isinstance(label, bool):
                yield f"entry {number}", path, str(label).strip()
            case _:
                raise InputError(
                    f"--labels: {file}: entry {number} is {pair!r:.60}; expected a path and a name or number"
                )


def _refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"'{repeated}' is listed twice")
    return content
