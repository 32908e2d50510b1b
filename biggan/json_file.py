"""The strict reader of small JSON files: a bounded, regular file, UTF-8, of the expected types.

A file that decides over deletion is sealed: it carries the SHA-256 of its own content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from biggan.errors import CheckpointError, StoppedRun
from biggan.files import MISSING, MalformedFile, read_bytes

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of things, such as steps or bytes, that every JSON program reads exactly."""
SEAL = "sha256"


def read_json(file: Path, kind: type[T]) -> T:
    """Return the JSON content of `file`, checked against the type `kind`; raise MalformedFile, or OSError."""
    return parse_json(read_bytes(file), kind)


def parse_json(content: bytes | str, kind: type[T]) -> T:
    """Return `content` as `kind`.

    Raises MalformedFile if it is not JSON in UTF-8, is nested too deep, or is of another type.
    """
    try:
        value: T = _adapter(cast(Hashable, kind)).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        reason = " ".join(f"{where}: {first['msg']}".removeprefix(": ").split())
        raise MalformedFile(reason) from None
    return value


def read_sealed(file: Path, kind: type[T]) -> T:
    """Return the content of a file that `seal` made; raise MalformedFile if its checksum differs, and as `read_json`.

    Files of earlier versions have no checksum.
    """
    tree = read_json(file, dict[str, Any])
    if SEAL in tree and tree.pop(SEAL) != _digest(tree):
        raise MalformedFile("its checksum differs from its content")
    return parse_json(json.dumps(tree), kind)


def seal(record: Mapping[str, Any]) -> str:
    """Return `record` as JSON text with its checksum."""
    return json.dumps({**record, SEAL: _digest(record)}, indent=1) + "\n"


def read_if_present(
    file: Path, kind: type[T], fix: str, *, sealed: bool = False, error: type[StoppedRun] = CheckpointError
) -> T | None:
    """Return the content of `file`, or None if there is no such file.

    Raises `error`, one line that ends with `fix`, if the file is damaged or cannot be read.
    """
    try:
        return read_sealed(file, kind) if sealed else read_json(file, kind)
    except MISSING:
        return None
    except MalformedFile as malformed:
        raise error(f"{file}: damaged ({malformed}); {fix}") from None
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise error(f"{file}: cannot be read ({reason}); fix it and rerun the same command") from None


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
