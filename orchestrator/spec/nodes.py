"""What a YAML file holds once it is read: trees of text with places, and flaws of the YAML itself."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.problems import Code, Path


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """Text, or None for YAML's null; `Plain` text was written without quotes."""

    mark: Mark
    value: str | None


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list."""

    mark: Mark
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping; of a key written twice the first value is kept and the second reported."""

    mark: Mark
    items: dict[str, Node]
    keys: dict[str, Mark]


Node = ScalarNode | ListNode | MapNode


@dataclass(frozen=True, slots=True)
class Flaw:
    """A problem of the YAML itself; `path` is empty where none can be named."""

    mark: Mark
    code: Code
    path: Path
    what: str
    want: str


def to_python(node: Node) -> object:
    """The tree as mappings, lists, text and None, for the models to type."""
    match node:
        case ScalarNode(value=value):
            return value
        case ListNode(items=items):
            return [to_python(item) for item in items]
        case MapNode(items=entries):
            return {key: to_python(item) for key, item in entries.items()}
