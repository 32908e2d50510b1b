"""LMDB folders as LSUN gives them out: one class each, key -> the bytes of an image file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from biggan.data.image import opened
from biggan.data.sources.image_source import ImageSource
from biggan.errors import InputError

DATA = "data.mdb"
ENDING = re.compile(r"(_(train|val|test))?_lmdb$")


def lmdb_folders(root: Path, split: str) -> list[Path]:
    """`root` if it is an LMDB, else those of the split in it, CLASS_SPLIT_lmdb; none if there is no LMDB at all.

    Raises InputError if there are only LMDBs of other splits.
    """
    if (root / DATA).is_file():
        return [root]
    folders = sorted(file.parent for file in root.glob(f"*/{DATA}"))
    found = [folder for folder in folders if folder.name.endswith(f"_{split}_lmdb")]
    if folders and not found:
        there = ", ".join(folder.name for folder in folders[:5])
        raise InputError(
            f"--split: {root} has no *_{split}_lmdb, only {there}; name another split, or one LMDB as SOURCE"
        )
    return found


def open_lmdbs(folders: Sequence[Path]) -> ImageSource:
    """Every value of every LMDB; its folder's name is the class. Raises InputError."""
    databases = [_environment(folder) for folder in folders]
    classes = [ENDING.sub("", folder.resolve().name) for folder in folders]
    items = [(number, key) for number, database in enumerate(databases) for key in _keys(folders[number], database)]

    def read(k: int) -> Any:
        number, key = items[k]
        with databases[number].begin() as transaction:
            return opened(transaction.get(key))

    names = [f"{folders[number].name}/{key.decode('ascii', 'backslashreplace')}" for number, key in items]
    return ImageSource(classes, names, [number for number, _ in items], read)


@cache  # LMDB opens a folder once in a process
def _environment(folder: Path) -> Any:
    try:
        import lmdb  # noqa: PLC0415  (optional: an extra of its own)
    except ModuleNotFoundError:
        raise InputError(f"{folder}: an LMDB needs the library lmdb; pip install 'biggan[lmdb]'") from None
    try:
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(f"{folder}: is no LMDB that can be read ({error}); fetch it again") from None
    there, needed = (folder / DATA).stat().st_size, (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if there < needed:  # reading beyond the end of a mapped file kills the process
        database.close()
        raise InputError(f"{folder / DATA}: is cut short, {there:,} of {needed:,} bytes; fetch it again")
    return database


def _keys(folder: Path, database: Any) -> list[bytes]:
    import lmdb  # noqa: PLC0415  (as above)

    try:
        with database.begin() as transaction, transaction.cursor() as cursor:
            keys = list(cursor.iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise InputError(f"{folder}: its list of images cannot be read ({error}); fetch it again") from None
    if not keys:
        raise InputError(f"{folder}: the LMDB is empty; give one that holds images")
    return keys
