"""The places that the shards of a data set may be in: its own folder or URL, and others only if that is allowed.

`dataset.json` may come from anyone. What it names starts no program, and leaves the data set only if the person who
trains allows it.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from biggan.errors import InputError

WITHOUT_PROGRAM = frozenset({"file", "ftps", "http", "https", "scp", "sftp"})
"""Schemes that webdataset reads with no program but curl. Others start any: `pipe:` a shell, `gs:` gsutil."""
_SCHEME = re.compile("([a-z][a-z0-9+.-]*):(//)?", re.IGNORECASE)


class Access(NamedTuple):
    """The permissions of a data set's reader. No file grants them."""

    pipe: bool = False
    """`data.allow_pipe`: URLs that start a program."""
    outside: bool = False
    """`data.allow_outside`: shards that `dataset.json` places outside the data set."""


INSIDE = Access()
"""The files of the data set only."""


def is_url(path: str) -> bool:
    """Return True if the path of a data set is a URL, not a folder."""
    match = _SCHEME.match(path)
    return match is not None and (match[2] is not None or match[1].lower() == "pipe")


def local_path(path: str) -> Path | None:
    """Return the file or folder that a path or a `file:` URL names; None for another URL."""
    if _scheme(path) != "file":
        return None if is_url(path) else Path(path)
    try:
        return Path(url2pathname(urlsplit(path).path))
    except ValueError as error:
        raise InputError(f"data.path: '{path}': {error}; check the URL") from None


def check_starts_no_program(url: str, access: Access) -> None:
    """Raise InputError if opening `url` may start a program that `access` does not allow."""
    if _scheme(url) not in WITHOUT_PROGRAM and not access.pipe:
        raise InputError(f"data.path: '{url}' starts a program; train with data.allow_pipe=true to allow it")


def shard_place(root: str, name: str, access: Access) -> Path | str:
    """Return the file, or else the URL, of the shard `name` of the data set in `root`, a folder or a URL.

    Links in a folder are followed: its owner made them. Raises InputError if `access` does not allow the place.
    """
    scheme, absolute = _scheme(name), PurePosixPath(name).is_absolute()
    if scheme:
        check_starts_no_program(name, access)
    if (scheme in WITHOUT_PROGRAM or absolute or ".." in PurePosixPath(name).parts) and not access.outside:
        raise InputError(
            f"data.path: {root}: its shard '{name}' is outside the data set; "
            f"train with data.allow_outside=true to allow it"
        )
    if scheme or absolute:
        return local_path(name) or name
    folder = local_path(root)
    if folder is not None:
        return folder / name
    check_starts_no_program(root, access)
    return f"{root}/{name}"


def _scheme(text: str) -> str:
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""
