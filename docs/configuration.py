"""Writes configuration.md from the docstrings of biggan/config/ (`make docs`); a test holds them equal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from biggan.config import Config

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Configuration

Every key of a preset and of the `key.sub=value` overrides. Keys without a default must be given. Written by
`make docs` from `biggan/config/`; change the docstrings there.
"""


def kind(field: FieldInfo) -> str:
    """The field's type as a user would write it."""
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str | int) for choice in choices):
        return " \\| ".join(f"`{choice}`" for choice in choices)
    if choices and choices[0] is str:
        return "list of names"
    return {"Path": "path", "str": "text", "bool": "true \\| false", "int": "integer", "float": "number"}.get(
        getattr(field.annotation, "__name__", ""), "list of integers"
    )


def default(field: FieldInfo) -> str:
    """The default as YAML."""
    if field.is_required():
        return ""
    value = field.default
    text = str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value
    return f"`{text}`"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, section in Config.model_fields.items():
        model = section.annotation
        assert isinstance(model, type), name
        assert issubclass(model, BaseModel), name
        parts.append(f"## {name}\n\n{model.__doc__}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |")
        for key, field in model.model_fields.items():
            meaning = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
            parts.append(f"| `{name}.{field.alias or key}` | {kind(field)} | {default(field)} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
