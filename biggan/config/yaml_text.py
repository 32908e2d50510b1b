"""Reads and writes the YAML of configs: a small and strict part of YAML 1.2.

PyYAML follows YAML 1.1, where `0100` is 64, `1:30` is 90, `yes` is true and `5e-5` is text. Here a scalar is a decimal
integer, a decimal number, `true`, `false` or `null`; anything else is text. Tags and keys that occur twice are refused.
The size, the depth and the number of values, aliases included, are bounded, so that no document takes long.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from biggan.errors import UNPRINTABLE

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_VALUES = 20_000
MAX_DIGITS = 20
BOOLEAN, INTEGER, NUMBER, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null"))
PATTERNS = (
    (BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    (INTEGER, re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"),
    (
        NUMBER,
        re.compile(
            r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
    (NULL, re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars and bounds of this module."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own attribute; none of YAML 1.1's)

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tag {event.tag} is not supported; remove it{_place(event)}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels of nesting{_place(event)}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: dict[str, None] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or UNPRINTABLE.search(key.value):
                raise yaml.YAMLError(f"a key must be a name{_place(key)}")
            if key.value in names:
                raise yaml.YAMLError(f"key {key.value!r:.60} is given twice; remove one{_place(key)}")
            names[key.value] = None
        values = [self.construct_object(value, deep=deep) for _, value in node.value]
        return dict(zip(names, values, strict=True))

    def construct_integer(self, node: ScalarNode) -> int:
        """Return a decimal integer of a bounded number of digits."""
        if len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"integer of {len(node.value)} digits{_place(node)}")
        return int(node.value)

    def construct_text(self, node: ScalarNode) -> str:
        """Return text without control characters."""
        if unprintable := UNPRINTABLE.search(node.value):
            raise yaml.YAMLError(f"text with the control character {unprintable[0]!r}{_place(node)}")
        return str(node.value)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; it also quotes text that `_Loader` would read as a number, as in '1e5'."""


for _tag, _pattern, _first in PATTERNS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Loader.add_constructor(INTEGER, _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document: dicts with text as keys, lists, text, numbers, booleans, None.

    Raises yaml.YAMLError, also for what this module's docstring says is refused.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"longer than {MAX_BYTES:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF"
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def dump_yaml(tree: Any) -> str:
    """Return `tree` as YAML that `load_yaml` reads back to an equal value."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def _check_size(root: Node) -> None:
    """Raise yaml.YAMLError if the document has too many values once its aliases are expanded, or contains itself."""
    sizes: dict[int, float] = {}

    def size(node: Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = float("inf")  # of a node that is met again inside itself
            inner = node.value if isinstance(node, SequenceNode) else []
            if isinstance(node, MappingNode):
                inner = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(size(part) for part in inner)
        return sizes[id(node)]

    if size(root) > MAX_VALUES:
        raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, aliases included")


def _place(of: Any) -> str:
    """Return `, line 3` for an event or node."""
    return f", line {of.start_mark.line + 1}"
