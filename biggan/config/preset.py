"""Resolves a YAML preset and `key.sub=value` overrides to a Config, or to a one-line error.

The result is saved as `config.yaml` in the run folder; that file alone reproduces the run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from biggan.config import Config
from biggan.config.interventions import in_force
from biggan.config.renamed import CHANGES, renamed, upgraded
from biggan.config.yaml_text import MAX_BYTES, load_yaml
from biggan.errors import UNPRINTABLE, InputError, nearest_path

MAX_TREE_CHARACTERS = MAX_BYTES // 2
"""Bound of a config as JSON; its YAML, with line breaks and all defaults, then stays below `MAX_BYTES`."""
MAX_ROLLBACKS_CHECKED = 100
"""A factor that multiplies at each rollback can leave a key's range. 100 take 0.2 ms."""


def resolve(preset: Path, overrides: Sequence[str] = ()) -> Config:
    """Read `preset` (YAML), apply `key.sub=value` overrides in order, and validate the result.

    Raises InputError with one line that names the file, or the key and the nearest valid key.
    """
    return resolve_tree(upgraded(_read_preset(preset)), overrides)


def resolve_tree(tree: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Apply the overrides to the sections `tree` of a preset (in place) and validate it; raises InputError like
    `resolve`."""
    for override in overrides:
        _apply(tree, override)
    text = json.dumps(tree, default=str)
    if len(text) > MAX_TREE_CHARACTERS:
        raise InputError(f"{_longest(tree)}: is too long; all values together have at most {MAX_TREE_CHARACTERS:,}")
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        raise InputError(_message(error)) from None
    for section, rollbacks in (("intervention", 0), ("rollback", 1), ("rollback", config.collapse.max_rollbacks)):
        _check_changes(config, section, min(rollbacks, MAX_ROLLBACKS_CHECKED))
    return config


def _check_changes(config: Config, section: str, rollbacks: int) -> None:
    """Raise InputError, naming the key in `section`, unless the values in force after `rollbacks` are valid."""
    try:
        in_force(config, rollbacks)
    except ValidationError as error:
        after = f", after {rollbacks} rollbacks" if rollbacks > 1 else ""
        raise InputError(f"{section}.{_message(error)}{after}") from None


def fields() -> dict[str, Any]:
    """Return every dotted key of the tree, in order, with its field."""
    return dict(_fields(Config, ""))


def flat(config: Config) -> dict[str, Any]:
    """Return the value of every dotted key, as JSON."""
    tree = json.loads(config.model_dump_json())
    return {key: reduce(lambda node, name: node[name], key.split("."), tree) for key in keys()}


def keys() -> list[str]:
    """Return every dotted key of the tree, in order."""
    return list(fields())


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, RootModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + (field.alias or name), field


def _read_preset(preset: Path) -> dict[str, Any]:
    try:
        with preset.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # /dev/zero has no end
        tree = load_yaml(content.decode("utf-8-sig"))
    except FileNotFoundError:
        hint = nearest_path(preset, preset.parent.glob("*.yaml")) or "; presets are in configs/"
        raise InputError(f"{preset}: no such config{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{preset!s:.200}: cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{preset}: not valid YAML ({reason})") from None
    if not isinstance(tree, dict):
        raise InputError(f"{preset}: expected sections (run, data, model, ...), not {type(tree).__name__}")
    for section, values in tree.items():
        if values is not None and not isinstance(values, dict):
            raise InputError(f"{section:.60}: expected keys below it, not {_shown(values)}")
    return {section: {} if values is None else values for section, values in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"'{override:.60}': write overrides as key.sub=value, for example training.steps=1000")
    section, _, changed = key.partition(".")
    changes = section in CHANGES and bool(changed)
    path = [section, changed] if changes else key.split(".")
    field = fields().get(changed if changes else key)
    if field is None:
        raise InputError(_unknown_key(key))
    if unprintable := UNPRINTABLE.search(text):
        raise InputError(f"{key}: has the character {unprintable[0]!r}; remove it, and write text as UTF-8")
    node = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(f"{key}: the preset has {_shown(node)} above it; give the keys below {part} in the preset")
    node[path[-1]] = text if _is_text(field.annotation) else _value(key, text)


def _is_text(kind: Any) -> bool:
    """Return True for keys of text, of a path, or of one of several words: their overrides are not YAML."""
    choices = get_args(kind)
    return kind in (str, Path) or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def _value(key: str, text: str) -> Any:
    """Return the value of an override that is written as YAML."""
    try:
        return load_yaml(text) if text else ""
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{key}: {_shown(text)} is not a valid YAML value ({reason:.100}); quote it") from None


def _longest(tree: dict[str, Any]) -> str:
    """Return the key of the longest value."""
    lengths = {f"{section}.{key}": len(str(value)) for section, keys in tree.items() for key, value in keys.items()}
    return f"{max(lengths, key=lambda key: lengths[key], default=''):.100}"


def _unknown_key(key: str) -> str:
    if (now := renamed(key)) is not None:
        return now
    section, _, changed = key[:100].partition(".")
    prefix, wanted = (f"{section}.", changed) if section in CHANGES and changed else ("", key[:100])
    leaf = wanted.rsplit(".", 1)[-1]
    same_leaf = [k for k in keys() if k.rsplit(".", 1)[-1] == leaf]
    near = same_leaf or difflib.get_close_matches(wanted, keys(), n=1, cutoff=0.0)
    return f"{prefix}{wanted}: no such key; nearest: {prefix}{near[0]}"


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    named = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return _unknown_key(named)
    if first["type"] == "missing":
        return f"{named}: missing; set it in the config or with {named}=VALUE"
    key = _key(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # a section's own check names its keys
        return message if len(first["loc"]) < 2 else f"{key}: {message}"
    message = message[0].lower() + message[1:]
    message = message.replace("input should be", "should be")
    return f"{key}: {message}, not {_shown(first['input'])}"


def _key(location: tuple[int | str, ...]) -> str:
    """Return the key at a pydantic location, with the index of an item of a list.

    A number or a schedule adds other parts to the location, such as the kind of the value.
    """
    parts, known = [str(part) for part in location], keys()
    while parts and not any(f"{key}.".startswith(f"{'.'.join(parts)}.") for key in known):
        parts.pop()
    added = location[len(parts) :]
    return ".".join(map(str, location if all(isinstance(part, int) for part in added) else parts))


def _shown(value: object) -> str:
    """Return a value as text of at most 100 characters on one line."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
