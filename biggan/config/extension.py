"""The `extension` section: losses, terms, views and constraints from a researcher's own files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from biggan.config.schedule import Strength
from biggan.config.sections import MAX_NAME_BYTES, Section

IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def check_import_path(text: str) -> str:
    """Return the text; raise ValueError if it is neither empty nor an import path."""
    if text and (len(text.encode()) > MAX_NAME_BYTES or not IMPORT_PATH.fullmatch(text)):
        raise ValueError(f"'{text:.60}' is not an import path; write MODULE:NAME or PACKAGE.MODULE:NAME")
    return text


ImportPath = Annotated[str, AfterValidator(check_import_path)]
"""PACKAGE.MODULE:NAME of a part: an object, or a class that is called without arguments."""


class NetworkExtensionConfig(Section):
    """Parts of one network's turn."""

    terms: dict[ImportPath, Strength] = Field(default={})
    """Terms of its loss that depend on the samples, each with its weight, a number or a schedule:
    `{penalties:Curvature: 10.0}`."""
    weight_terms: dict[ImportPath, Strength] = Field(default={})
    """Terms of its loss that depend on its weights, each with its weight."""
    views: tuple[ImportPath, ...] = ()
    """Changes of the samples in its turn alone."""
    constraints: tuple[ImportPath, ...] = ()
    """Changes of its weights after each of its updates."""


class ExtensionConfig(Section):
    """Parts from your own files, as `PACKAGE.MODULE:NAME`. Only `biggan train --allow-code` imports them.
    docs/extending.md shows each kind."""

    loss: ImportPath = ""
    """Losses of both networks, in place of `objective.loss`."""
    views: tuple[ImportPath, ...] = ()
    """Changes of what D sees in both networks' turns, after those of `objective.augment`."""
    discriminator: NetworkExtensionConfig = NetworkExtensionConfig()
    generator: NetworkExtensionConfig = NetworkExtensionConfig()

    def named(self) -> list[tuple[str, str]]:
        """Return (key, import path) of every part."""
        found = [("extension.loss", self.loss)] if self.loss else []
        found += [("extension.views", path) for path in self.views]
        for name, network in (("discriminator", self.discriminator), ("generator", self.generator)):
            for key in type(network).model_fields:
                found += [(f"extension.{name}.{key}", path) for path in getattr(network, key)]
        return found
