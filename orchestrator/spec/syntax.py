"""PyYAML's syntax errors in words that name the mistake people made."""

from __future__ import annotations

import yaml

from orchestrator.spec.nodes import Flaw, Mark
from orchestrator.spec.problems import Code

YAML_WANT = "it must be YAML 1.2 in UTF-8"

# Parts of what PyYAML says, and the mistake that people made when it says so.
_SYNTAX: dict[str, tuple[str, str]] = {
    "mapping values are not allowed here": (
        "holds a second ':' or a line indented under a value",
        "one key and one value a line; quote text that holds ': '",
    ),
    "'\\t' that cannot start any token": ("is indented with a tab", "YAML is indented with spaces"),
    "could not find expected ':'": (
        "holds a line without ':' where a key must stand",
        "every line of a mapping must be 'key: value'",
    ),
    "expected <block end>, but found '-'": (
        "is a list item among keys",
        "a mapping has keys only; a list stands below a key of its own",
    ),
    "<block end>": ("is indented like nothing above it", "keys of one mapping must start in one column"),
    "found unexpected end of stream": ("ends inside a quoted text", "a quote must be closed"),
    "<stream end>": ("ends inside brackets", "a bracket must be closed"),
}


def syntax_flaw(error: yaml.YAMLError, text: str) -> Flaw:
    """The flaw that ended the reading of a text."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        return Flaw(mark, Code.SYNTAX, (), f"holds the control character U+{ord(text[error.position]):04X}", YAML_WANT)
    assert isinstance(error, yaml.MarkedYAMLError), f"PyYAML raises no other: {error!r}"
    place = error.problem_mark or error.context_mark
    mark = Mark(place.line + 1, place.column + 1) if place else Mark(1, 1)
    return Flaw(mark, Code.SYNTAX, (), *_explained(error))


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """What is wrong and what would be right; what no line above knows is passed on in PyYAML's words."""
    problem = error.problem or "it cannot be read"
    known = next((words for part, words in _SYNTAX.items() if part in problem), None)
    context = f" {error.context}" if error.context else ""
    return known or (f"is not YAML: {problem}{context}", YAML_WANT)
