"""What the classes of imported networks are called."""

from __future__ import annotations

from pathlib import Path

from biggan.data.dataset import Dataset
from biggan.errors import InputError


def class_names(count: int, dataset: Dataset | None, file: Path | None) -> tuple[str, ...]:
    """The data set's, or the lines of a file; without either, their numbers.

    Raises InputError, which names the flag, unless they are `count` different ones.
    """
    if dataset is not None and file is not None:
        raise InputError("--classes: the data set names them already; leave it out, or --data")
    if dataset is not None:
        flag, names = "--data", dataset.classes
    elif file is not None:
        flag, names = "--classes", _lines(file)
    else:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise InputError(f"{flag}: names {len(names)} classes, the networks have {count}; give those they learned")
    if len(set(names)) != count:
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{flag}: '{twice}' is there twice; each class needs a name of its own")
    return names


def _lines(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"--classes: {file}: cannot be read ({reason}); give a text file, a name a line") from None
    return tuple(line.strip() for line in lines if line.strip())
