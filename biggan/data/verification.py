"""The check that the shards on disk are those of `dataset.json`: sizes always, checksums where a file has changed.

A file whose checksum was right is listed, with its size and times, in `dataset.json` by `biggan pack` and `biggan data
--verify`, and in the run's copy of it at every start. While a file is as it is listed there, its bytes are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from biggan.data.dataset import FILE_NAME, Dataset, Shard, VerifiedShard
from biggan.data.location import shard_place
from biggan.errors import InputError
from biggan.files import MISSING, MalformedFile, open_regular, sha256_of
from biggan.progress import Tick

if TYPE_CHECKING:
    from biggan.distributed.process import Process


COPY_AGAIN = "copy the shard again, or pack the data set again into another folder"


def as_found(file: Path, shard: Shard | VerifiedShard) -> VerifiedShard | None:
    """Return the file as it is now, were its bytes those of `shard`; None if there is no such regular file.

    Raises OSError if it cannot be opened.
    """
    try:
        with open_regular(file) as opened:
            found = os.fstat(opened.fileno())
    except (*MISSING, MalformedFile):
        return None
    return VerifiedShard(
        name=shard.name,
        sha256=shard.sha256,
        bytes=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
    )


def checksum_problem(file: Path, shard: Shard | VerifiedShard) -> str | None:
    """Read a whole shard and compare its SHA-256 with dataset.json. Return the problem or None."""
    try:
        same = sha256_of(file) == shard.sha256
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    return None if same else f"{file}: SHA-256 differs from {FILE_NAME}"


def size_problem(file: Path, size: int, shard: Shard) -> str | None:
    """Compare the size of a shard's file with dataset.json. Return the problem or None."""
    return None if size == shard.bytes else f"{file}: {size:,} bytes, but {shard.bytes:,} in {FILE_NAME}"


def verified(root: str, dataset: Dataset, known: Set[VerifiedShard], process: Process, tick: Tick) -> Dataset:
    """Return the data set with the files that were found to be its shards. Collective.

    A file is read if it is not as it is in `known`. The files are divided among the processes; one that several hosts
    share is read once. Shards behind a URL are not checked. Raises InputError, on every process, if a file is missing,
    or of another size or checksum than in `dataset.json`.
    """
    places = {shard.name: shard_place(root, shard.name, dataset.access) for shard in dataset.shards}
    files = {name: place for name, place in places.items() if isinstance(place, Path)}
    found = process.together(lambda: _found(files, dataset) if process.is_first_of_host else [])
    unknown = process.gather([shard for shard in found if shard not in known])
    readers: dict[VerifiedShard, list[int]] = {}
    for rank, shards in enumerate(unknown):
        on_host = [k for k, host in enumerate(process.hosts) if host == process.hosts[rank]]
        for shard in shards:
            readers.setdefault(shard, []).extend(on_host)
    mine = [shard for k, (shard, ranks) in enumerate(readers.items()) if ranks[k % len(ranks)] == process.rank]
    rounds = max(process.gather(len(mine)))
    for k in range(rounds):  # one shard in a round, so that no process waits for longer than that
        process.together(partial(_check_checksums, files, mine[k : k + 1]))
        tick("checksums of shards", len(readers) * (k + 1) // rounds, len(readers))
    on_hosts = dict.fromkeys(shard for shards in process.gather(found) for shard in shards)
    return dataset.model_copy(update={"verified": tuple(on_hosts)})


def _found(files: dict[str, Path], dataset: Dataset) -> list[VerifiedShard]:
    """Return the files of the shards as they are; raise InputError if one is missing or has another size."""
    shards = []
    for shard in (shard for shard in dataset.shards if shard.name in files):
        file = files[shard.name]
        found = as_found(file, shard)
        if found is None:
            raise InputError(f"{file}: shard is missing; {COPY_AGAIN}")
        if problem := size_problem(file, found.bytes, shard):
            raise InputError(f"{problem}; {COPY_AGAIN}")
        shards.append(found)
    return shards


def _check_checksums(files: dict[str, Path], shards: Iterable[VerifiedShard]) -> None:
    for shard in shards:
        if problem := checksum_problem(files[shard.name], shard):
            raise InputError(f"{problem}; {COPY_AGAIN}")
