"""Check what ruff, mypy and import-linter do not: sizes, names, and how docstrings open.

Run by `make lint`. Prints one line per finding and exits with 1 if there is any.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
VAGUE_NAMES = {"utils", "util", "misc", "helpers", "common"}
REFUSED_OPENINGS = {"of", "what", "whatever", "whether", "where", "how"}
"""A docstring that opens with one of these words does not state what the object is or does (CONTRIBUTING.md)."""
PACKAGE = "biggan"
FOLDERS = (PACKAGE, "tests", "benchmarks", "docs", "lint")

Finding = tuple[Path, int, str]


def findings(root: Path) -> Iterator[Finding]:
    """Yield (file, line, message) for every rule that is broken below `root`."""
    named: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            tree = ast.parse(text)
            yield from docstring_findings(file, tree)
            if folder == PACKAGE:
                yield from size_findings(file, text, tree)
                if file.name not in ("__init__.py", "__main__.py"):
                    named[f"module {file.stem}"].append((file, 1))
                for node in ast.walk(tree):
                    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                        named[f"class {node.name}"].append((file, node.lineno))
    for name, places in named.items():
        for file, line in places[1:]:
            yield file, line, f"{name} exists in {places[0][0]} too; one name means one thing"


def size_findings(file: Path, text: str, tree: ast.Module) -> Iterator[Finding]:
    """Yield the findings on lengths and vague names of one file."""
    if file.stem in VAGUE_NAMES:
        yield file, 1, f"{file.stem} says nothing; name the file after its subject"
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield file, 1, f"{lines} lines; at most {MAX_FILE_LINES}: two subjects are two files"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > MAX_FUNCTION_LINES:
                yield file, node.lineno, f"{node.name} has {size} lines; at most {MAX_FUNCTION_LINES}"


def docstring_findings(file: Path, tree: ast.Module) -> Iterator[Finding]:
    """Yield the docstrings, those of attributes included, that open with a refused word."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            if isinstance(text := statement.value.value, str) and text.split():
                first = text.split()[0].strip("`'\"*").rstrip(",:").lower()
                if first in REFUSED_OPENINGS:
                    yield file, statement.lineno, f"docstring opens with '{text.split()[0]}'; state what it is or does"


def main() -> int:
    """Print the findings below the working directory; return the exit code."""
    found = list(findings(Path()))
    sys.stdout.writelines(f"{file}:{line}: {message}\n" for file, line, message in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
