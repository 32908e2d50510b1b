"""`--labels FILE`: the classes of a folder's or zip's images, from CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from biggan.data.sources.image_source import ImageSource
from biggan.data.sources.tree import Tree
from biggan.errors import InputError

PATH_HEADINGS = ("path", "file_name", "filename")
"""What the first column of a CSV may be called; the hub's folders of images say `file_name`."""
Pair = tuple[str, str, str]
"""(where it stands in the file, path, label)."""


def by_file(tree: Tree, file: str) -> ImageSource:
    """The tree's images under the labels of `file`, a path here or in the tree; raises InputError.

    Numbers sort as numbers, names as names. Every image must have one label, and every label its image.
    """
    label_of: dict[str, str] = {}
    for where, path, label in _pairs(file, _text(tree, file)):
        name = PurePosixPath(path).as_posix()
        if not label:
            raise InputError(f"--labels: {file}: {where}: '{path}' has an empty label; name its class")
        if name in label_of:
            raise InputError(f"--labels: {file}: {where}: '{path}' stands there twice; leave one label")
        label_of[name] = label
    names = tree.images()
    _check_matched(tree, file, names, label_of)
    found = set(label_of.values())
    classes = sorted(found, key=lambda c: (len(c), c)) if all(_is_number(c) for c in found) else sorted(found)
    return tree.labelled(names, classes, [label_of[name] for name in names])


def _check_matched(tree: Tree, file: str, names: list[str], label_of: dict[str, str]) -> None:
    there = set(names)
    if strangers := [path for path in label_of if path not in there]:
        raise InputError(
            f"--labels: {file}: {len(strangers)} of its {len(label_of)} paths are no images of {tree.origin}, first "
            f"'{strangers[0]}'; paths are relative to SOURCE, as '{names[0]}' is"
        )
    if bare := [name for name in names if name not in label_of]:
        raise InputError(
            f"--labels: {file}: {len(bare)} of {len(names)} images in {tree.origin} have no label, first '{bare[0]}'; "
            f"add them, or move them elsewhere"
        )


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and (label == "0" or label[0] != "0")  # "007" is a name


def _text(tree: Tree, file: str) -> str:
    try:
        if Path(file).is_file():
            data = Path(file).read_bytes()
        elif file in tree.files:
            data = tree.read(file)
        else:
            raise InputError(f"--labels: {file}: no such file, nor one in {tree.origin}")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels: {file}: cannot be read as UTF-8 text ({error})") from None
    if "\0" in text:
        raise InputError(f"--labels: {file}: holds a NUL character; save it as UTF-8 text")
    return text


def _pairs(file: str, text: str) -> Iterator[Pair]:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix == ".csv":
        return _readable(file, _from_csv(file, text))
    if suffix == ".json":
        return _from_json(file, text)
    raise InputError(f"--labels: {file}: neither .csv nor .json; write 'path,label' lines into a .csv")


def _readable(file: str, pairs: Iterator[Pair]) -> Iterator[Pair]:
    try:
        yield from pairs
    except csv.Error as error:
        raise InputError(f"--labels: {file}: cannot be read as CSV ({error}); is a quote not closed?") from None


def _from_csv(file: str, text: str) -> Iterator[Pair]:
    """Of the columns `path` and `label`; without such a heading, of two columns."""
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
                f"--labels: {file}: line {rows.line_num}: {len(row)} columns; expected {width} (without a heading "
                f"'path,label', a path and a label; put names with commas in quotes)"
            )
        yield f"line {rows.line_num}", row[columns[0]].strip(), row[columns[1]].strip()


def _from_json(file: str, text: str) -> Iterator[Pair]:
    """`{"labels": [[path, label], ...]}` as StyleGAN's tools write it, or `{path: label}`."""
    try:
        content = json.loads(text, object_pairs_hook=_unless_doubled)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--labels: {file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f'--labels: {file}: neither {{"labels": [[path, label], ...]}} nor {{path: label}}')
    pairs: Iterable[object] = content.items()
    if isinstance(content.get("labels", 0), list | None):
        pairs = content["labels"] or ()
        if not pairs:
            raise InputError(f"--labels: {file}: holds no labels; pack with --unconditional instead")
    for number, pair in enumerate(pairs):
        match pair:
            case [str(path), str() | int() as label] if not isinstance(label, bool):
                yield f"entry {number}", path, str(label).strip()
            case _:
                raise InputError(
                    f"--labels: {file}: entry {number} is {pair!r:.60}; expected a path and a name or number"
                )


def _unless_doubled(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"'{twice}' stands there twice")
    return content
