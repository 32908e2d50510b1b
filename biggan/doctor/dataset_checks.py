"""Checks of the data set: every rank reads the same dataset.json and complete shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from biggan.config import Config
from biggan.data.dataset import FILE_NAME, Dataset, Shard, check_trainable, described
from biggan.data.location import INSIDE, Access, is_url, shard_place
from biggan.data.stream import read_dataset
from biggan.data.verification import size_problem
from biggan.doctor.check import Check, Status, join_limited, name_ranks, not_reached, outliers
from biggan.doctor.rank_store import Heartbeat
from biggan.errors import InputError
from biggan.files import MalformedFile, open_regular, read_bytes

NAMED_SHARDS = 20
"""Shard problems that one rank reports by name. Beyond this it reports only their number."""


class DataFacts(BaseModel):
    """Facts about the data set on one rank."""

    error: str = ""
    """Reason that dataset.json cannot be read. The other fields are then empty."""
    digest: str = ""
    """12 hex digits of the SHA-256 of dataset.json's contents."""
    shards: int = 0
    bytes: int = 0
    remote: bool = False
    """True if shards are behind a URL. Training reads them; the doctor does not."""
    problems: list[str] = []
    """One line per shard that is missing, not of the declared size, or unreadable."""
    more_problems: int = 0
    shards_to_read: int = 0
    """Number of shards to read in full with --checksums, divided among the ranks."""
    untrainable: str = ""
    """Reason that the config cannot be trained on this data set."""


def inspect_dataset(
    path: str, config: Config | None, heartbeat: Heartbeat
) -> tuple[DataFacts, Sequence[tuple[Path, Shard]]]:
    """Read dataset.json and check every local shard. Return the facts, and the local shards with their files."""
    access = INSIDE if config is None else Access(config.data.allow_pipe, config.data.allow_outside)
    file = Path(path) / FILE_NAME
    heartbeat.beat(f"reading {path if is_url(path) else file}")
    try:
        if is_url(path):
            dataset = read_dataset(path, *access)
        else:
            dataset = described(lambda: read_bytes(file), str(file)).with_access(path, access)
    except InputError as error:
        return DataFacts(error=str(error)), ()
    except OSError as error:
        return DataFacts(error=f"{file}: cannot be read ({error.strerror})"), ()
    shards = list(dataset.shards)
    places = [(shard_place(path, shard.name, access), shard) for shard in shards]
    local = [(place, shard) for place, shard in places if isinstance(place, Path)]
    problems = [problem for place, shard in local if (problem := shard_problem(place, shard, heartbeat))]
    # Each copy of a data set lists files of its own as verified.
    content = dataset.model_copy(update={"verified": ()}).to_json()
    facts = DataFacts(
        digest=hashlib.sha256(content.encode()).hexdigest()[:12],
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        remote=len(local) < len(shards),
        problems=problems[:NAMED_SHARDS],
        more_problems=len(problems[NAMED_SHARDS:]),
        untrainable=_untrainable(dataset, config),
    )
    return facts, local


def shard_problem(file: Path, shard: Shard, heartbeat: Heartbeat) -> str | None:
    """Check a shard's existence, its size, and that its first and last byte can be read. Return the problem or None."""
    heartbeat.beat(f"checking {file}")
    try:
        if problem := size_problem(file, file.stat().st_size, shard):
            return problem
        with open_regular(file) as opened:
            opened.read(1)
            opened.seek(-1, os.SEEK_END)
            opened.read(1)
    except FileNotFoundError:
        return f"{file} is missing"
    except MalformedFile as malformed:
        return f"{file}: {malformed}"
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    return None


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
    """Return the rows `dataset` (dataset.json) and `shards`."""
    if facts is None:
        return [Check(name, Status.NOT_CHECKED, "", "give --data D or CONFIG") for name in ("dataset", "shards")]
    if not facts:
        return [not_reached(name) for name in ("dataset", "shards")]
    errors = {rank: f.error for rank, f in facts.items() if f.error}
    common, odd = outliers({rank: f.digest for rank, f in facts.items() if not f.error} or {0: None})
    if errors:
        ranks = [rank for rank in errors if errors[rank] == errors[min(errors)]]
        observed, fix = f"{name_ranks(ranks, hosts)}: {errors[min(errors)]}", "mount or copy the data set to this path"
        return [Check("dataset", Status.FAIL, observed, fix), _check_shards(facts, hosts)]
    if odd:
        observed = f"{name_ranks(odd, hosts)} has another dataset.json ({odd[min(odd)]}, others {common})"
        fix = "copy or mount the same data set everywhere"
        return [Check("dataset", Status.FAIL, observed, fix), _check_shards(facts, hosts)]
    first = facts[min(facts)]
    if first.untrainable:
        return [
            Check("dataset", Status.FAIL, first.untrainable, "change the key named here, or use another data set"),
            _check_shards(facts, hosts),
        ]
    observed = f"dataset.json equal on {len(facts)} rank(s), hash {common}"
    return [Check("dataset", Status.PASS, observed), _check_shards(facts, hosts)]


def _check_shards(facts: Mapping[int, DataFacts], hosts: Mapping[int, str]) -> Check:
    problems: dict[str, list[int]] = {}
    for rank, f in facts.items():
        for problem in f.problems:
            problems.setdefault(problem, []).append(rank)
    if problems:
        more = sum(f.more_problems for f in facts.values())
        observed = join_limited(f"{name_ranks(ranks, hosts)}: {problem}" for problem, ranks in problems.items())
        observed += f"; and {more} more" if more else ""
        return Check("shards", Status.FAIL, observed, "copy the shards named here again, or pack the data set again")
    readable = [f for _, f in sorted(facts.items()) if not f.error]
    if not readable:
        return Check("shards", Status.NOT_CHECKED, "no dataset.json could be read", "fix the row above")
    total = f"{readable[0].shards} shards, {readable[0].bytes / 1e9:.2f} GB"
    if readable[0].remote:
        return Check(
            "shards", Status.NOT_CHECKED, f"{total}, behind a URL", "training counts the samples it cannot read"
        )
    return Check("shards", Status.PASS, f"{total}: readable, of their declared sizes, on {len(readable)} rank(s)")


def check_checksums(problems: Mapping[int, Sequence[str]] | None, hosts: Mapping[int, str]) -> Check:
    """Return the row `checksums`. `problems`: those each rank found in the shards it read, None if not requested."""
    if problems is None:
        return Check("checksums", Status.NOT_CHECKED, "", "--checksums reads every shard once, divided among the ranks")
    if not problems:
        return Check("checksums", Status.NOT_CHECKED, "no shard could be read in full", "see the rows above")
    lines = [f"{name_ranks([rank], hosts)}: {problem}" for rank, own in sorted(problems.items()) for problem in own]
    if lines:
        return Check("checksums", Status.FAIL, join_limited(lines), "copy the shards named here again")
    return Check("checksums", Status.PASS, f"every shard matches its SHA-256, read by {len(problems)} rank(s)")
