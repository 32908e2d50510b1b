"""Which images are packed, under which labels: what `biggan pack` is given, opened as one source."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from biggan.data.sources import builtin, labels, lsun, selection, tree
from biggan.data.sources.image_source import ImageSource, apart, printable
from biggan.data.sources.selection import Merge
from biggan.errors import InputError, nearest_path


@dataclass(frozen=True)
class SelectionRequest:
    """The sources, and what is taken of them."""

    sources: tuple[str, ...]
    """Folders, zips, parquet files, LMDBs, `digits` or `torchvision:NAME`: together one data set."""
    labels: str = ""
    """CSV or JSON with the label of every image of the only source, a folder or a zip."""
    unconditional: bool = False
    """One class, whatever the sources say."""
    merges: tuple[Merge, ...] = ()
    classes: tuple[str, ...] = ()
    """After merging, those to pack, in this order; empty: all."""
    split: str = "train"
    """Of parquet files and LMDBs."""
    label_column: str = "label"
    """Of parquet files."""
    torchvision_root: str = ""

    def __post_init__(self) -> None:
        given = {"--labels": self.labels, "--classes": self.classes, "--merge": self.merges}
        if self.unconditional and any(given.values()):
            flag = next(flag for flag, value in given.items() if value)
            raise InputError(f"--unconditional: there is one class then, and nothing for {flag} to do; leave one out")
        if self.labels and len(self.sources) > 1:
            raise InputError("--labels: its paths are relative to one SOURCE; give the folder above these instead")
        places = [Path(source).resolve() for source in self.sources]
        for k, place in enumerate(places):
            inside = [other for other in places[:k] + places[k + 1 :] if place.is_relative_to(other)]
            if inside:
                raise InputError(f"SOURCE: {self.sources[k]} is, or lies in, {inside[0]}; give each image once")


@cache
def open_selection(wanted: SelectionRequest) -> ImageSource:
    """One source of all that is wanted; raises InputError.

    Kept open for the process's life: each packing process opens a source once, not once per shard.
    """
    sources = [_named(_opened(source, wanted), source) for source in wanted.sources]
    _refuse_unheeded(sources, wanted)
    source = sources[0] if len(sources) == 1 else selection.joined(sources, wanted.sources)
    if wanted.unconditional:
        return selection.unconditional(source)
    source = selection.merged(source, wanted.merges)
    return selection.chosen(source, wanted.classes) if wanted.classes else source


def _refuse_unheeded(sources: Sequence[ImageSource], wanted: SelectionRequest) -> None:
    """A flag that is given and that none of the sources has a use for; its default may be."""
    heeded = frozenset[str]().union(*(source.heeds for source in sources))
    origins = ", ".join(wanted.sources)
    if wanted.split != SelectionRequest.split and "--split" not in heeded:
        raise InputError(f"--split: {origins}: says of no split what is in it; name a split's own files as SOURCE")
    if wanted.label_column != SelectionRequest.label_column and "--label-column" not in heeded:
        raise InputError(f"--label-column: {origins}: no column of labels is read; only those of parquet files are")


def _named(source: ImageSource, origin: str) -> ImageSource:
    """With names that can be written down, and no two classes of one name."""
    given = [printable(name) for name in source.classes]
    classes = apart(given)
    new = [f"'{name}'" for name, old in zip(classes, given, strict=True) if name != old]
    more = f" and {len(new) - 5} more" if len(new) > 5 else ""
    told = (f"{origin}: has classes of one name; numbers keep them apart: {', '.join(new[:5])}{more}",) if new else ()
    return replace(source, classes=classes, names=[printable(name) for name in source.names], notes=source.notes + told)


def _opened(source: str, wanted: SelectionRequest) -> ImageSource:
    path = Path(source)
    if source == "digits" or source.startswith("torchvision:"):
        _refuse_labels(source, wanted)
        if source == "digits":
            return builtin.digits()
        return builtin.torchvision(source.removeprefix("torchvision:"), Path(wanted.torchvision_root))
    if path.is_dir():
        return _folder(path, wanted)
    if path.suffix == ".parquet" and path.is_file():
        return _parquet(path.parent, [path], wanted)
    if path.is_file() and zipfile.is_zipfile(path):
        return _tree(tree.archive(path), wanted)
    if path.is_file() and path.suffix == ".zip":
        raise InputError(f"{source}: is no zip that can be read (cut short?); copy it here again")
    if path.exists():
        raise InputError(f"{source}: neither a folder, a zip nor a parquet file")
    hint = nearest_path(path, path.parent.glob("*"))
    raise InputError(f"{source}: no such folder, zip or parquet file{hint} (also known: digits, torchvision:NAME)")


def _folder(path: Path, wanted: SelectionRequest) -> ImageSource:
    if folders := lsun.lmdb_folders(path, wanted.split):
        _refuse_labels(str(path), wanted)
        return replace(lsun.open_lmdbs(folders), heeds=frozenset({"--split"} if folders != [path] else ()))
    here = tree.folder(path)
    parquet_files = [file for file in here.files if file.endswith(".parquet")]
    if parquet_files and not here.holds_images():
        from biggan.data.sources.parquet import files_of_split, says_splits  # noqa: PLC0415  (pyarrow: needed here only)

        source = _parquet(path, files_of_split(path, parquet_files, wanted.split), wanted)
        return replace(source, heeds=source.heeds | {"--split"}) if says_splits(parquet_files) else source
    return _tree(here, wanted)


def _tree(images: tree.Tree, wanted: SelectionRequest) -> ImageSource:
    if wanted.labels:
        return labels.by_file(images, wanted.labels)
    return tree.in_one_class(images) if wanted.unconditional else tree.by_class_folder(images)


def _parquet(root: Path, files: list[Path], wanted: SelectionRequest) -> ImageSource:
    from biggan.data.sources.parquet import open_parquet  # noqa: PLC0415  (as above)

    _refuse_labels(str(root), wanted)
    source = open_parquet(root, files, wanted.label_column, labelled=not wanted.unconditional)
    return replace(source, heeds=frozenset(() if wanted.unconditional else {"--label-column"}))


def _refuse_labels(source: str, wanted: SelectionRequest) -> None:
    if wanted.labels:
        raise InputError(f"--labels: {source} has labels of its own; --labels is for folders and zips")
