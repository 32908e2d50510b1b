"""The members of a tar file, read within bounds: no header decides how much memory is used."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

from biggan.files import MAX_BYTES

_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


def tar_members(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each regular file of an uncompressed tar, in order.

    Other members are skipped, so names that need an extended header are cut to 255 characters. Raises TarError if the
    tar is damaged or cut off, or if a member is larger than MAX_BYTES.
    """
    while (header := _read(stream, tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
        if not 0 <= member.size <= MAX_BYTES:
            raise tarfile.ReadError(f"a member of {member.size} bytes, more than {MAX_BYTES}")
        if member.type in _WITHOUT_DATA:
            continue
        content = _read(stream, member.size)
        _read(stream, -member.size % tarfile.BLOCKSIZE)
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
            yield member.name, content


def _read(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise tarfile.ReadError("the shard is truncated")
    return content
