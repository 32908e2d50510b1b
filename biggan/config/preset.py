"""Resolves a YAML preset and `key.sub=value` overrides to a Config, or to a one-line error.

The result is saved as `config.yaml` in the run folder; that file alone reproduces the run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from biggan.config import Config
from biggan.errors import InputError, nearest_path


def resolve(preset: Path, overrides: Sequence[str] = ()) -> Config:
    """Read `preset` (YAML), apply `key.sub=value` overrides in order, and validate the result.

    Raises InputError with one line that names the file, or the key and the nearest valid key.
    """
    return resolve_tree(_read_preset(preset), overrides)


def resolve_tree(tree: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Apply the overrides to the sections `tree` of a preset (in place) and validate it; raises InputError like
    `resolve`."""
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise InputError(_message(error)) from None


def keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the tree, in order."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + (field.alias or name)


def _read_preset(preset: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(preset.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        hint = nearest_path(preset, preset.parent.glob("*.yaml")) or "; presets are in configs/"
        raise InputError(f"{preset}: no such config{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{preset}: cannot be read ({reason})") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{preset}: not valid YAML ({reason})") from None
    if not isinstance(tree, dict):
        raise InputError(f"{preset}: expected sections (run, data, model, ...), not {type(tree).__name__}")
    for section, values in tree.items():
        if values is not None and not isinstance(values, dict):
            raise InputError(f"{section}: expected keys below it, not {values!r}")
    return {section: {} if values is None else values for section, values in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"'{override}': write overrides as key.sub=value, for example training.steps=1000")
    if key not in keys():
        raise InputError(_unknown_key(key))
    section, leaf = key.split(".")
    try:
        tree.setdefault(section, {})[leaf] = yaml.load(text, Loader=_Loader) if text else ""
    except yaml.YAMLError:
        raise InputError(f"{key}: '{text}' is not a valid YAML value; quote it") from None


def _unknown_key(key: str) -> str:
    known = list(keys())
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    near = same_leaf or difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"{key}: no such key; nearest: {near[0]}"


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown_key(key)
    if first["type"] == "missing":
        return f"{key}: missing; set it in the config or with {key}=VALUE"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message
    message = message[0].lower() + message[1:]
    message = message.replace("input should be", "should be")
    return f"{key}: {message}, not {first['input']!r}"


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `5e-5` as a float; PyYAML follows YAML 1.1 and reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
