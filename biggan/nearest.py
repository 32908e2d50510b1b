"""What a misspelt path may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def nearest(path: Path, others: Iterable[Path]) -> str:
    """`; nearest: runs/digits`, the one of `others` whose name is spelt most like that of `path`; empty if none is."""
    by_name = {other.name: other for other in sorted(others)}
    near = difflib.get_close_matches(path.name, by_name, n=1, cutoff=0.5)
    return f"; nearest: {by_name[near[0]]}" if near else ""
