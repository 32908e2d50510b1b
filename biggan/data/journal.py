"""`packing.jsonl`, the list of finished shards in a pack's destination; packing resumes from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from biggan.data.dataset import FILE_NAME, VerifiedShard
from biggan.data.verification import as_found
from biggan.errors import InputError
from biggan.files import MalformedFile, append_line
from biggan.folder_lock import LOCK
from biggan.json_file import parse_json

JOURNAL = "packing.jsonl"


@dataclass(frozen=True)
class PackedShard:
    """A finished shard, as listed in packing.jsonl and later described in `dataset.json`."""

    split: str
    number: int
    name: str
    labels: dict[int, int]
    bytes: int
    sha256: str
    skipped: list[tuple[str, str]]
    modified_ns: int
    changed_ns: int

    @property
    def images(self) -> int:
        """Number of images written."""
        return sum(self.labels.values())

    @property
    def verified(self) -> VerifiedShard:
        """The file as it was when its checksum was computed."""
        return VerifiedShard(
            name=self.name,
            sha256=self.sha256,
            bytes=self.bytes,
            modified_ns=self.modified_ns,
            changed_ns=self.changed_ns,
        )


def open_journal(dest: Path, settings: Mapping[str, object]) -> dict[tuple[str, int], PackedShard]:
    """Create the journal in `dest`, or resume from it; return the finished shards by (split, number).

    `settings` (plan and source, JSON-serializable) must equal the journal's first line. Raise InputError if they
    differ, or if `dest` contains something else or cannot be written.
    """
    if (dest / FILE_NAME).exists():
        raise InputError(f"{dest}: already contains a packed data set; choose another folder or delete it")
    journal, header = dest / JOURNAL, json.dumps(settings)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lines = journal.read_text(encoding="utf-8").split("\n") if journal.exists() else []
        if len(lines) < 2:  # new, or interrupted while its first line was being written
            if any(f.name not in (JOURNAL, LOCK) for f in dest.iterdir()):
                raise InputError(f"{dest}: is not empty and not a `biggan pack` destination; choose another folder")
            journal.write_text(header + "\n", encoding="utf-8")
            lines = [header]
    except OSError as error:
        raise InputError(f"{dest}: cannot be written ({error.strerror or error})") from None
    if lines[0] != header:
        raise InputError(
            f"{dest}: contains an unfinished pack with other settings or another source; "
            f"delete it or choose another folder"
        )
    return _finished(dest, lines[1:])


def _finished(dest: Path, lines: list[str]) -> dict[tuple[str, int], PackedShard]:
    finished = {}
    for line in lines:
        try:
            packed = parse_json(line, PackedShard)
        except MalformedFile:
            continue  # damaged, or being written when packing was interrupted: the shard is packed again
        if as_found(dest / packed.name, packed.verified) == packed.verified:
            finished[packed.split, packed.number] = packed
    return finished


def record_shard(dest: Path, packed: PackedShard) -> None:
    """Append a finished shard to the journal and fsync it."""
    append_line(dest / JOURNAL, json.dumps(asdict(packed)))


def close_journal(dest: Path) -> None:
    """Delete the journal of a complete pack."""
    (dest / JOURNAL).unlink()
