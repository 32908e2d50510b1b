"""`state.json` and `manifest.json` of a checkpoint folder: their types, and reading them. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from biggan.errors import CheckpointError
from biggan.files import MISSING, MalformedFile, read_bytes
from biggan.json_file import Count, parse_json, read_json

MANIFEST = "manifest.json"
STATE = "state.json"


class ListedFile(TypedDict):
    """Size and checksum of one file of a checkpoint."""

    bytes: Count
    sha256: str


class Manifest(TypedDict):
    """The contents of `manifest.json` that are read: file name -> size and checksum."""

    files: dict[str, ListedFile]


class SavedState(TypedDict, total=False):
    """The types of the keys of `state.json` that a resume, a child run or a sampler reads. Other keys are allowed."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    step: Count
    rollbacks: Count
    since_step: Count
    images_seen: Count
    data_seed: Count | None
    level: Literal["healthy", "warning", "collapsing", "collapsed"]
    statistics_images: Count
    evaluation: dict[str, Any] | None
    cursors: list[tuple[Count, Count, Count]]
    bad_samples: dict[str, str]
    classes: list[str]


def read_state(state_file: Path) -> dict[str, Any] | None:
    """Return a checkpoint's state, or None if it is missing or damaged: malformed, or different from its manifest.

    Raises CheckpointError if the file system does not answer, which is no damage.
    """
    try:
        content = read_bytes(state_file)
        try:
            listed = read_json(state_file.with_name(MANIFEST), Manifest)["files"].get(state_file.name)
        except MISSING:
            listed = None
        if listed is not None and listed["sha256"] != hashlib.sha256(content).hexdigest():
            return None
        return dict(parse_json(content, SavedState))
    except (*MISSING, MalformedFile):
        return None
    except OSError as error:
        raise unreadable(state_file, error) from None


def check_restorable(state: Mapping[str, Any], folder: Path, streams: int) -> None:
    """Raise CheckpointError if a state, that of checkpoint `folder`, lacks what a resume on `streams` streams needs."""
    needed = SavedState.__annotations__.keys() - {"statistics_images", "evaluation", "data_seed"}
    if missing := sorted(needed - state.keys()):
        raise CheckpointError(f"{folder / STATE}: has no {', '.join(missing)}; resume from another checkpoint")
    if len(state["cursors"]) != streams:
        raise CheckpointError(
            f"{folder / STATE}: cursors: {len(state['cursors'])} data positions for data.streams={streams}; "
            f"resume from another checkpoint"
        )


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error of a file or folder that exists, perhaps, but cannot be read now."""
    return CheckpointError(
        f"{path}: cannot be read ({error.strerror or error}); nothing was changed; rerun the same command when it can "
        f"be read, or move it away if it is lost"
    )
