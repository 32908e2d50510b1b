"""The `biggan pack` arguments that select sources, classes and labels, and the one source they describe."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

from biggan.data.sources import builtin, labels, lsun, tree
from biggan.data.sources.image_source import ONE_CLASS, ImageSource, class_indices, number_duplicates, printable
from biggan.errors import InputError, nearest_path


class Merge(NamedTuple):
    """`--merge NAME=PART,PART`: the images of all parts become one class."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class SelectionRequest:
    """The sources to pack, their labels and their classes. The field names are stored in packing.jsonl."""

    sources: tuple[str, ...]
    """Folders, zips, parquet files, LMDBs, `digits` or `torchvision:NAME`; together they form one data set."""
    labels: str = ""
    """CSV or JSON file with a label for every image; needs exactly one source, a folder or a zip."""
    unconditional: bool = False
    """True to put all images into one class."""
    merges: tuple[Merge, ...] = ()
    classes: tuple[str, ...] = ()
    """Classes to pack, in this order, named as they are after merging; empty: all."""
    split: str = "train"
    """Split to read from parquet files and LMDBs."""
    label_column: str = "label"
    """Column of parquet files that holds the labels."""
    torchvision_root: str = ""

    def __post_init__(self) -> None:
        given = {"--labels": self.labels, "--classes": self.classes, "--merge": self.merges}
        if self.unconditional and any(given.values()):
            flag = next(flag for flag, value in given.items() if value)
            raise InputError(f"--unconditional: packs one class, so {flag} has no effect; remove one of the two flags")
        if self.labels and len(self.sources) > 1:
            raise InputError("--labels: its paths are relative to one SOURCE; give the parent folder as SOURCE instead")
        places = [Path(source).resolve() for source in self.sources]
        for k, place in enumerate(places):
            inside = [other for other in places[:k] + places[k + 1 :] if place.is_relative_to(other)]
            if inside:
                raise InputError(f"SOURCE: {self.sources[k]} is the same as, or inside, {inside[0]}; give it once")


def parse_names(text: str, flag: str) -> tuple[str, ...]:
    """Parse `a,b,c`; names that contain commas are quoted. Raise InputError that names `flag`."""
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise InputError(f"{flag}: '{text}': a quote is not closed, or there is no name; write a,b,c") from None
    names = tuple(printable(name.strip()) for name in row)
    if not names or not all(names):
        raise InputError(f"{flag}: '{text}': contains an empty name; write a,b,c")
    _refuse_duplicates(names, flag)
    return names


def parse_merge(text: str) -> Merge:
    """Parse `dogs=beagle,poodle`; raise InputError if it is malformed."""
    name, equals, parts = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--merge: '{text}'; write NAME=CLASS,CLASS, as in dogs=beagle,poodle")
    return Merge(printable(name.strip()), parse_names(parts, "--merge"))


@cache
def open_selection(request: SelectionRequest) -> ImageSource:
    """Open all sources of `request` as one; raise InputError.

    The result is cached for the life of the process: a packing process opens a source once, not once per shard.
    """
    sources = [_with_unique_names(_open(source, request), source) for source in request.sources]
    _refuse_unused_flags(sources, request)
    source = sources[0] if len(sources) == 1 else join_sources(sources, request.sources)
    if request.unconditional:
        return as_one_class(source)
    source = merge_classes(source, request.merges)
    return select_classes(source, request.classes) if request.classes else source


def join_sources(sources: Sequence[ImageSource], origins: Sequence[str]) -> ImageSource:
    """Return all items of all sources, named ORIGIN/NAME.

    Classes with the same name become one. Classes are in order of first appearance.
    """
    classes = list(dict.fromkeys(name for source in sources for name in source.classes))
    items = [(source, k) for source in sources for k in range(len(source.names))]
    return ImageSource(
        classes=classes,
        names=[
            f"{printable(origin)}/{name}"
            for source, origin in zip(sources, origins, strict=True)
            for name in source.names
        ],
        labels=class_indices([source.classes[source.labels[k]] for source, k in items], classes),
        read=lambda k: items[k][0].read(items[k][1]),
        notes=tuple(note for source in sources for note in source.notes),
    )


def as_one_class(source: ImageSource) -> ImageSource:
    """Return the source with all images in one class."""
    return replace(source, classes=[ONE_CLASS], labels=[0] * len(source.labels))


def merge_classes(source: ImageSource, merges: Sequence[Merge]) -> ImageSource:
    """Return the source with the parts of each merge under its name, at the position of the first part.

    Raise InputError for an unknown or repeated class, or a name that is another class already.
    """
    _refuse_duplicates([part for merge in merges for part in merge.parts], "--merge")
    _refuse_duplicates([merge.name for merge in merges], "--merge")
    new_name = {part: merge.name for merge in merges for part in merge.parts}
    for part in new_name:
        _check_known(part, source.classes, "--merge")
    for merge in merges:
        if merge.name in source.classes and merge.name not in merge.parts:
            raise InputError(
                f"--merge: '{merge.name}' is an existing class; add it to the parts, or choose another name"
            )
    renamed = [new_name.get(name, name) for name in source.classes]
    classes = list(dict.fromkeys(renamed))
    return replace(source, classes=classes, labels=class_indices([renamed[label] for label in source.labels], classes))


def select_classes(source: ImageSource, classes: Sequence[str]) -> ImageSource:
    """Return only these classes, in this order; raise InputError for a class that is unknown or has no images."""
    for name in classes:
        _check_known(name, source.classes, "--classes")
    new_label = {source.classes.index(name): k for k, name in enumerate(classes)}
    kept = [k for k, label in enumerate(source.labels) if label in new_label]
    labels = [new_label[source.labels[k]] for k in kept]
    if empty := set(range(len(classes))).difference(labels):
        raise InputError(f"--classes: '{classes[min(empty)]}' has no images; remove it")
    read = source.read
    return replace(
        source,
        classes=list(classes),
        names=[source.names[k] for k in kept],
        labels=labels,
        read=lambda k: read(kept[k]),
    )


def _check_known(name: str, classes: Sequence[str], flag: str) -> None:
    if name not in classes:
        near = get_close_matches(name, classes, n=3, cutoff=0.5) or classes[:3]
        raise InputError(f"{flag}: no class '{name}'; nearest of {len(classes)}: {', '.join(near)}")


def _refuse_duplicates(names: Sequence[str], flag: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{flag}: '{repeated[0]}' is given twice; name each class once")


def _refuse_unused_flags(sources: Sequence[ImageSource], request: SelectionRequest) -> None:
    """Raise InputError for a flag that is not at its default and that no source uses."""
    used_flags = frozenset[str]().union(*(source.used_flags for source in sources))
    origins = ", ".join(request.sources)
    if request.split != SelectionRequest.split and "--split" not in used_flags:
        raise InputError(f"--split: {origins}: has no named splits; give the files of one split as SOURCE")
    if request.label_column != SelectionRequest.label_column and "--label-column" not in used_flags:
        raise InputError(f"--label-column: {origins}: has no label column, only parquet files do; remove the flag")


def _with_unique_names(source: ImageSource, origin: str) -> ImageSource:
    """Return the source with names that are valid UTF-8 and with distinct class names."""
    escaped = [printable(name) for name in source.classes]
    classes = number_duplicates(escaped)
    new = [f"'{name}'" for name, old in zip(classes, escaped, strict=True) if name != old]
    more = f" and {len(new) - 5} more" if len(new) > 5 else ""
    note = (f"{origin}: several classes have the same name; numbered as {', '.join(new[:5])}{more}",) if new else ()
    return replace(source, classes=classes, names=[printable(name) for name in source.names], notes=source.notes + note)


def _open(source: str, request: SelectionRequest) -> ImageSource:
    path = Path(source)
    if source == "digits" or source.startswith("torchvision:"):
        _refuse_labels(source, request)
        if source == "digits":
            return builtin.digits()
        return builtin.torchvision(source.removeprefix("torchvision:"), Path(request.torchvision_root))
    if path.is_dir():
        return _open_folder(path, request)
    if path.suffix == ".parquet" and path.is_file():
        return _open_parquet(path.parent, [path], request)
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_tree(tree.zip_tree(path), request)
    if path.is_file() and path.suffix == ".zip":
        raise InputError(f"{source}: not a readable zip (truncated?); copy it again")
    if path.exists():
        raise InputError(f"{source}: not a folder, a zip or a parquet file; give one of these")
    hint = nearest_path(path, path.parent.glob("*"))
    raise InputError(f"{source}: no such folder, zip or parquet file{hint} (also known: digits, torchvision:NAME)")


def _open_folder(path: Path, request: SelectionRequest) -> ImageSource:
    if folders := lsun.lmdb_folders(path, request.split):
        _refuse_labels(str(path), request)
        return replace(lsun.open_lmdbs(folders), used_flags=frozenset({"--split"} if folders != [path] else ()))
    images = tree.folder_tree(path)
    parquet_files = [file for file in images.files if file.endswith(".parquet")]
    if parquet_files and not images.holds_images():
        from biggan.data.sources.parquet import files_of_split, names_splits  # noqa: PLC0415  (pyarrow: needed here only)

        source = _open_parquet(path, files_of_split(path, parquet_files, request.split), request)
        return replace(source, used_flags=source.used_flags | {"--split"}) if names_splits(parquet_files) else source
    return _open_tree(images, request)


def _open_tree(images: tree.Tree, request: SelectionRequest) -> ImageSource:
    if request.labels:
        return labels.by_file(images, request.labels)
    return tree.in_one_class(images) if request.unconditional else tree.by_class_folder(images)


def _open_parquet(root: Path, files: list[Path], request: SelectionRequest) -> ImageSource:
    from biggan.data.sources.parquet import open_parquet  # noqa: PLC0415  (as above)

    _refuse_labels(str(root), request)
    source = open_parquet(root, files, request.label_column, labelled=not request.unconditional)
    return replace(source, used_flags=frozenset(() if request.unconditional else {"--label-column"}))


def _refuse_labels(source: str, request: SelectionRequest) -> None:
    if request.labels:
        raise InputError(f"--labels: {source} has its own labels; --labels works with folders and zips only")
