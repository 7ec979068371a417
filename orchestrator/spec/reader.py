"""YAML to trees in which every node knows its line and column, and every scalar is still the text in the file.

PyYAML scans and parses; what it would make of the text is left out, because it reads `22:00` as 1320 and `no` as
False. Files are input from strangers: size, depth, aliases and tags are bounded before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.spec.nodes import Flaw, ListNode, MapNode, Mark, Node, ScalarNode
from orchestrator.spec.problems import Code, Path
from orchestrator.spec.scalars import Plain
from orchestrator.spec.syntax import YAML_WANT, syntax_flaw

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_ALIAS_NODES = 1_000
_KEY_WANT = "keys must be text"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Reading:
    """The documents of a file, and what was wrong with the YAML."""

    documents: tuple[Node, ...]
    flaws: tuple[Flaw, ...]


def read_documents(text: str) -> Reading:
    """Read every document of a text; a syntax error ends the reading, documents before it are kept."""
    documents: list[Node] = []
    flaws: list[Flaw] = []
    try:
        for raw in _compose(text):
            documents.append(_Converter(flaws).convert(raw))  # noqa: PERF401 - documents before an error are kept
    except _RefusedError as refused:
        flaws.append(refused.flaw)
    except yaml.YAMLError as error:
        flaws.append(syntax_flaw(error, text))
    return Reading(tuple(documents), tuple(flaws))


class _RefusedError(Exception):
    """The file is refused where it stands; nothing after it is read."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw)
        self.flaw = flaw


def _compose(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node said that there is one"
            yield node
    except (ValueError, OverflowError):
        # PyYAML lets errors of chr() and int() through: an escape beyond Unicode, a directive's endless version.
        at = Mark(loader.line + 1, loader.column + 1)
        raise _RefusedError(Flaw(at, Code.SYNTAX, (), "holds an escape or number that is none", YAML_WANT)) from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, stopped early: by depth, by what aliases would expand to, by tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._alias_nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            return self._follow(event)
        if getattr(event, "tag", None) is not None:
            want = "tags are not read: quote text, write numbers plainly"
            raise _RefusedError(Flaw(_mark(event.start_mark), Code.UNSAFE_YAML, (), f"holds the tag {event.tag}", want))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _follow(self, event: Any) -> yaml.Node:
        node = self.anchors.get(event.anchor)
        at = _mark(event.start_mark)
        # PyYAML sets a collection's end mark when it is complete: without one, the alias stands inside its own anchor.
        if node is None or node.end_mark is None:
            what = f"the alias *{event.anchor} " + ("has no anchor before it" if node is None else "contains itself")
            raise _RefusedError(Flaw(at, Code.UNSAFE_YAML, (), what, "an alias must repeat a complete value above it"))
        self._alias_nodes += self._size(node)
        if self._alias_nodes > MAX_ALIAS_NODES:
            what = f"aliases expand to more than {MAX_ALIAS_NODES} values"
            raise _RefusedError(Flaw(at, Code.UNSAFE_YAML, (), what, f"up to {MAX_ALIAS_NODES} are read"))
        self.get_event()  # type: ignore[no-untyped-call]
        return node

    def _size(self, node: yaml.Node) -> int:
        """Nodes in the tree below, aliases written out; remembered, so that nested anchors cost nothing twice."""
        if id(node) not in self._sizes:
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            below = 0 if isinstance(node, yaml.ScalarNode) else sum(self._size(part) for part in parts)
            self._sizes[id(node)] = 1 + below
        return self._sizes[id(node)]


class _Converter:
    """PyYAML's nodes to ours; duplicate and impossible keys become flaws, the rest goes on."""

    def __init__(self, flaws: list[Flaw]) -> None:
        self._flaws = flaws

    def convert(self, raw: yaml.Node, path: Path = ()) -> Node:
        mark = _mark(raw.start_mark)
        if len(path) > MAX_DEPTH:
            raise _too_deep(raw.start_mark)
        if isinstance(raw, yaml.ScalarNode):
            return ScalarNode(mark, _scalar(raw, mark))
        if isinstance(raw, yaml.SequenceNode):
            return ListNode(mark, tuple(self.convert(item, (*path, at)) for at, item in enumerate(raw.value)))
        return self._mapping(raw, mark, path)

    def _mapping(self, raw: yaml.Node, mark: Mark, path: Path) -> MapNode:
        items: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        for raw_key, raw_value in raw.value:
            at = _mark(raw_key.start_mark)
            key = _scalar(raw_key, at) if isinstance(raw_key, yaml.ScalarNode) else None
            if key is None:
                self._flaws.append(Flaw(at, Code.WRONG_SHAPE, path, "holds a key that is not text", _KEY_WANT))
            elif key == "<<":
                want = "merge keys are not read: write the keys out"
                self._flaws.append(Flaw(at, Code.UNSAFE_YAML, (*path, key), "is YAML 1.1's merge key", want))
            elif key in items:
                first = keys[key]
                what = f"is written twice (first on line {first.line})"
                self._flaws.append(Flaw(at, Code.DUPLICATE_KEY, (*path, str(key)), what, "a key may stand once"))
            else:
                items[str(key)] = self.convert(raw_value, (*path, str(key)))
                keys[str(key)] = at
        return MapNode(mark, items, keys)


def _scalar(raw: yaml.ScalarNode, mark: Mark) -> str | None:
    text = raw.value
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _RefusedError(Flaw(mark, Code.SYNTAX, (), "holds half of a surrogate pair", YAML_WANT))
    if raw.style is not None:
        return str(text)
    return None if text in _NULLS else Plain(text)


def _too_deep(mark: Any) -> _RefusedError:
    what = f"is nested more than {MAX_DEPTH} deep"
    return _RefusedError(Flaw(_mark(mark), Code.UNSAFE_YAML, (), what, f"up to {MAX_DEPTH} levels are read"))


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)
