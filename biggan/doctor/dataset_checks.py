"""Does every rank see the same, complete data set?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from biggan.config import Config
from biggan.data.dataset import FILE_NAME, Dataset, Shard, check_trainable, parse
from biggan.data.stream import read_dataset
from biggan.doctor.board import Pulse
from biggan.doctor.check import Check, Status, name_ranks, not_reached, odd_ones, some
from biggan.errors import InputError
from biggan.files import sha256_of

NAMED_SHARDS = 20
"""Troubles one rank tells the others about; the rest it counts."""


class DataFacts(BaseModel):
    """What one rank saw of the data set."""

    error: str = ""
    """Why there is no reading it; the rest is empty then."""
    digest: str = ""
    """Of the contents of dataset.json."""
    shards: int = 0
    bytes: int = 0
    remote: bool = False
    """Behind a URL: shards are read while training, and not looked at here."""
    troubles: list[str] = []
    """Shards that are missing, not of the declared size, or cannot be read."""
    more_troubles: int = 0
    shards_to_read: int = 0
    """In full, shared out over the ranks, because this rank was asked to."""
    untrainable: str = ""
    """Why the config cannot be trained on it."""


def look_at_data(path: str, config: Config | None, pulse: Pulse) -> tuple[DataFacts, Sequence[Shard]]:
    """Read dataset.json, and look at every shard; also the local shards, to be read in full."""
    remote = "://" in path or path.startswith("pipe:")
    file = Path(path) / FILE_NAME
    pulse.beat(f"reading {path if remote else file}")
    try:
        if remote:
            dataset = read_dataset(path, config is not None and config.data.allow_pipe)
        else:
            dataset = parse(file.read_text(encoding="utf-8"), str(file))
    except InputError as error:
        return DataFacts(error=str(error)), ()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return DataFacts(error=f"{file}: cannot be read ({reason})"), ()
    shards = [shard for split in dataset.splits.values() for shard in split.shards]
    local = [] if remote else [shard for shard in shards if ":" not in shard.name]
    troubles = [trouble for shard in local if (trouble := trouble_at_first_sight(Path(path), shard, pulse))]
    facts = DataFacts(
        digest=hashlib.sha256(dataset.to_json().encode()).hexdigest()[:12],
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        remote=len(local) < len(shards),
        troubles=troubles[:NAMED_SHARDS],
        more_troubles=len(troubles[NAMED_SHARDS:]),
        untrainable=_untrainable(dataset, config),
    )
    return facts, local


def trouble_at_first_sight(folder: Path, shard: Shard, pulse: Pulse) -> str | None:
    """What is wrong with a shard, short of reading it all: is it there, of its size, and do its ends come?"""
    file = folder / shard.name
    pulse.beat(f"looking at {file}")
    try:
        size = file.stat().st_size
        if size != shard.bytes:
            return f"{file}: {size:,} bytes, {FILE_NAME} says {shard.bytes:,}"
        with file.open("rb") as opened:
            opened.read(1)
            opened.seek(-1, os.SEEK_END)
            opened.read(1)
    except FileNotFoundError:
        return f"{file} is missing"
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    return None


def checksum_trouble(folder: Path, shard: Shard) -> str | None:
    """Read a whole shard and compare it with its SHA-256."""
    file = folder / shard.name
    try:
        same = sha256_of(file) == shard.sha256
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    return None if same else f"{file}: its bytes are not those {FILE_NAME} was written for (SHA-256)"


def _untrainable(dataset: Dataset, config: Config | None) -> str:
    if config is None:
        return ""
    m = config.model
    try:
        check_trainable(
            dataset,
            classes=m.classes,
            resolution=m.resolution,
            image_channels=m.image_channels,
            streams=config.data.streams,
        )
    except InputError as error:
        return str(error)
    return ""


def check_data(facts: Mapping[int, DataFacts] | None, hosts: Mapping[int, str]) -> list[Check]:
    """Rows on dataset.json and on the shards."""
    if facts is None:
        return [Check(name, Status.NOT_CHECKED, "", "give --data D or CONFIG") for name in ("dataset", "shards")]
    if not facts:
        return [not_reached(name) for name in ("dataset", "shards")]
    errors = {rank: f.error for rank, f in facts.items() if f.error}
    common, odd = odd_ones({rank: f.digest for rank, f in facts.items() if not f.error} or {0: None})
    if errors:
        ranks = [rank for rank in errors if errors[rank] == errors[min(errors)]]
        seen, mend = f"{name_ranks(ranks, hosts)}: {errors[min(errors)]}", "mount or copy the data set there"
        return [Check("dataset", Status.FAIL, seen, mend), _check_shards(facts, hosts)]
    if odd:
        seen = f"{name_ranks(odd, hosts)} has another dataset.json ({odd[min(odd)]}, others {common})"
        mend = "copy or mount the same data set everywhere"
        return [Check("dataset", Status.FAIL, seen, mend), _check_shards(facts, hosts)]
    first = facts[min(facts)]
    if first.untrainable:
        return [Check("dataset", Status.FAIL, first.untrainable, "as it says"), _check_shards(facts, hosts)]
    seen = f"dataset.json equal on {len(facts)} rank(s), hash {common}"
    return [Check("dataset", Status.PASS, seen), _check_shards(facts, hosts)]


def _check_shards(facts: Mapping[int, DataFacts], hosts: Mapping[int, str]) -> Check:
    found: dict[str, list[int]] = {}
    for rank, f in facts.items():
        for trouble in f.troubles:
            found.setdefault(trouble, []).append(rank)
    if found:
        more = sum(f.more_troubles for f in facts.values())
        seen = some(f"{name_ranks(ranks, hosts)}: {trouble}" for trouble, ranks in found.items())
        seen += f"; and {more} more" if more else ""
        return Check("shards", Status.FAIL, seen, "copy the shards named here again, or pack the data set again")
    readable = [f for _, f in sorted(facts.items()) if not f.error]
    if not readable:
        return Check("shards", Status.NOT_CHECKED, "no dataset.json could be read", "mend the row above")
    total = f"{readable[0].shards} shards, {readable[0].bytes / 1e9:.2f} GB"
    if readable[0].remote:
        return Check("shards", Status.NOT_CHECKED, f"{total}, behind a URL", "training counts what it reads of them")
    return Check("shards", Status.PASS, f"{total}: readable, of their declared sizes, on {len(readable)} rank(s)")


def check_checksums(troubles: Mapping[int, Sequence[str]] | None, hosts: Mapping[int, str]) -> Check:
    """The row on the shards' contents; `troubles` are those each rank found in its share, None if not asked for."""
    if troubles is None:
        return Check(
            "checksums", Status.NOT_CHECKED, "", "--checksums reads every shard once, shared out over the ranks"
        )
    if not troubles:
        return Check("checksums", Status.NOT_CHECKED, "no shard could be read in full", "see the rows above")
    found = [f"{name_ranks([rank], hosts)}: {trouble}" for rank, those in sorted(troubles.items()) for trouble in those]
    if found:
        return Check("checksums", Status.FAIL, some(found), "copy the shards named here again")
    return Check("checksums", Status.PASS, f"every shard has its SHA-256, read by {len(troubles)} rank(s)")
