"""LSUN's LMDB folders: one class each; every value is the bytes of an image file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from biggan.data.image import open_image
from biggan.data.sources.image_source import ImageSource, sorted_class_names
from biggan.errors import InputError

DATA = "data.mdb"
ENDING = re.compile(r"(_(train|val|test))?_lmdb$")


def lmdb_folders(root: Path, split: str) -> list[Path]:
    """Return [`root`] if it is an LMDB, else the folders CLASS_SPLIT_lmdb in it; empty if it contains no LMDB.

    Raise InputError if it contains LMDBs of other splits only.
    """
    if (root / DATA).is_file():
        return [root]
    folders = sorted(file.parent for file in root.glob(f"*/{DATA}"))
    of_split = [folder for folder in folders if folder.name.endswith(f"_{split}_lmdb")]
    if folders and not of_split:
        existing = ", ".join(folder.name for folder in folders[:5])
        raise InputError(
            f"--split: {root} has no *_{split}_lmdb, only {existing}; choose another split, or give one LMDB as SOURCE"
        )
    return of_split


def open_lmdbs(folders: Sequence[Path]) -> ImageSource:
    """Return all values of all LMDBs as one source; each folder's name is a class. Raise InputError."""
    order = sorted_class_names(_class_of(folder) for folder in folders)
    folders = sorted(folders, key=lambda folder: order.index(_class_of(folder)))
    databases = [_environment(folder) for folder in folders]
    classes = [_class_of(folder) for folder in folders]
    items = [(number, key) for number, database in enumerate(databases) for key in _keys(folders[number], database)]

    def read(k: int) -> Any:
        number, key = items[k]
        with databases[number].begin() as transaction:
            return open_image(transaction.get(key))

    names = [f"{folders[number].name}/{key.decode('ascii', 'backslashreplace')}" for number, key in items]
    return ImageSource(classes, names, [number for number, _ in items], read)


def _class_of(folder: Path) -> str:
    return ENDING.sub("", folder.resolve().name)


@cache  # LMDB allows a process to open a folder only once
def _environment(folder: Path) -> Any:
    try:
        import lmdb  # noqa: PLC0415  (an optional dependency)
    except ModuleNotFoundError:
        raise InputError(f"{folder}: reading an LMDB needs the library lmdb; pip install 'biggan[lmdb]'") from None
    try:
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(f"{folder}: not a readable LMDB ({error}); download it again") from None
    size, needed = (folder / DATA).stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if size < needed:  # reading past the end of a mapped file kills the process
        database.close()
        raise InputError(f"{folder / DATA}: truncated, {size:,} of {needed:,} bytes; download it again")
    return database


def _keys(folder: Path, database: Any) -> list[bytes]:
    import lmdb  # noqa: PLC0415  (as above)

    try:
        with database.begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise InputError(f"{folder}: the LMDB's keys cannot be read ({error}); download it again") from None
    if not keys:
        raise InputError(f"{folder}: the LMDB is empty; give one with images")
    return keys
