"""What a pack has finished, remembered in its destination so that it can be interrupted anywhere and run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from biggan.data.dataset import FILE_NAME
from biggan.errors import InputError
from biggan.files import append_line

JOURNAL = "packing.jsonl"


@dataclass(frozen=True)
class Packed:
    """A finished shard: what `dataset.json` will say of it."""

    split: str
    number: int
    name: str
    labels: dict[int, int]
    bytes: int
    sha256: str
    skipped: list[tuple[str, str]]

    @property
    def images(self) -> int:
        """Images written."""
        return sum(self.labels.values())


def open_journal(dest: Path, what: Mapping[str, object]) -> dict[tuple[str, int], Packed]:
    """Start or continue packing `what` (plan and source, as JSON takes it) in `dest`; return the shards already there.

    Raises InputError if `dest` holds something else, or cannot be written.
    """
    if (dest / FILE_NAME).exists():
        raise InputError(f"{dest}: already holds a packed data set; choose another folder or remove it")
    journal, header = dest / JOURNAL, json.dumps(what)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lines = journal.read_text(encoding="utf-8").split("\n") if journal.exists() else []
        if len(lines) < 2:  # not begun, or interrupted while its first line was being written
            if any(f.name != JOURNAL for f in dest.iterdir()):
                raise InputError(f"{dest}: is not empty and was not begun by `biggan pack`; choose another folder")
            journal.write_text(header + "\n", encoding="utf-8")
            lines = [header]
    except OSError as error:
        raise InputError(f"{dest}: cannot be written ({error.strerror or error})") from None
    if lines[0] != header:
        raise InputError(
            f"{dest}: holds a pack begun with other settings or another source; remove it or choose another folder"
        )
    return _finished(dest, lines[1:])


def _finished(dest: Path, lines: list[str]) -> dict[tuple[str, int], Packed]:
    found = {}
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the pack was interrupted
        packed = Packed(**record | {"labels": {int(k): n for k, n in record["labels"].items()}})
        file = dest / packed.name
        if file.is_file() and file.stat().st_size == packed.bytes:
            found[packed.split, packed.number] = packed
    return found


def remember(dest: Path, packed: Packed) -> None:
    """Add a finished shard, durably."""
    append_line(dest / JOURNAL, json.dumps(asdict(packed)))


def close_journal(dest: Path) -> None:
    """The pack is whole: nothing needs remembering."""
    (dest / JOURNAL).unlink()
