"""Pydantic's errors to problems with line and column, in sentences of our own.

The map from pydantic's error types is closed: only the constructs listed in `_findings` occur in the models, and a
type that is not there is a bug of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.nodes import Flaw, ListNode, MapNode, Mark, Node
from orchestrator.spec.problems import NEXT_STEPS, BadValueError, Code, Finding, FindingsError, Path, Problem, dotted
from orchestrator.spec.scalars import shown
from orchestrator.spec.shape import descend

# What pydantic puts at the end of the location of a mapping's bad key.
_KEY_MARK = "[key]"
_ABOUT_THE_KEY = frozenset({Code.UNKNOWN_KEY, Code.NO_EFFECT})


class Locator:
    """Turns what is wrong with one document into problems of its file."""

    def __init__(self, file: str, document: Node, kind: str) -> None:
        self._file = file
        self._document = document
        self._kind = kind

    def flaw(self, flaw: Flaw) -> Problem:
        """A problem of the YAML itself."""
        return self._problem(flaw.mark, Finding(flaw.path, flaw.code, flaw.what, flaw.want))

    def finding(self, finding: Finding) -> Problem:
        """A cross-field problem; `finding.at` counts from the document."""
        return self._located((), finding)

    def invalid(self, error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
        """Every problem that pydantic found with the document."""
        for details in error.errors(include_url=False):
            for finding in _findings(details, model):
                yield self._located(details["loc"], finding)

    def _located(self, loc: Path, finding: Finding) -> Problem:
        """A problem at `loc`, where parts that the file does not have are tags of unions, plus `finding.at`, where
        they are keys that are missing: the place is then the mapping that lacks them."""
        node: Node | None = self._document
        mark, path = self._document.mark, list[str | int]()
        at_key = finding.code in _ABOUT_THE_KEY or loc[-1:] == (_KEY_MARK,)
        for depth, part in enumerate((*loc, *finding.at)):
            inner = _below(node, part)
            if inner is None and depth < len(loc):
                continue
            if node is not None and inner is not None:
                mark = _mark(node, part, inner, at_key)
            node = inner
            path.append(part)
        return self._problem(mark, replace(finding, at=tuple(path)))

    def _problem(self, mark: Mark, finding: Finding) -> Problem:
        step = finding.next_step or NEXT_STEPS[finding.code].format(kind=self._kind or "KIND")
        path = dotted(finding.at)
        return Problem(self._file, mark.line, mark.column, finding.code, path, finding.what, finding.want, step)


def remove_key(data: object, loc: Path) -> None:
    """Take the key at a pydantic location out of a document's Python form; parts that it lacks are tags of unions."""
    *around, key = loc
    for part in around:
        if isinstance(data, dict):
            data = data.get(part, data)
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
    if isinstance(data, dict):
        data.pop(key, None)


def _below(node: Node | None, part: str | int) -> Node | None:
    match node:
        case MapNode(items=entries):
            return entries.get(str(part))
        case ListNode(items=items) if isinstance(part, int) and part < len(items):
            return items[part]
        case _:
            return None


def _mark(node: Node, part: str | int, inner: Node, at_key: bool) -> Mark:
    return node.keys[str(part)] if at_key and isinstance(node, MapNode) else inner.mark


def _findings(details: ErrorDetails, model: type[BaseModel]) -> Iterator[Finding]:
    """What one pydantic error means; `at` counts from the error's location."""
    given, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "value_error" if isinstance(context["error"], FindingsError):
            yield from context["error"].findings
        case "value_error" if isinstance(context["error"], BadValueError):
            mistake: BadValueError = context["error"]
            yield Finding((), mistake.code, mistake.what, mistake.want, mistake.next_step)
        case "missing":
            key = details["loc"][-1]
            yield Finding((key,), Code.MISSING_KEY, "is missing", "it has no default")
        case "extra_forbidden":
            known = keys_at(model, details["loc"][:-1])
            key = str(details["loc"][-1])
            want = f"there are {', '.join(known)}"
            yield Finding((), Code.UNKNOWN_KEY, "is no key here", want, did_you_mean(key, known))
        case "model_type" | "model_attributes_type" | "dict_type":
            yield _not_a_mapping(given, keys_at(model, details["loc"]))
        case "union_tag_not_found":
            key = _quoted(context["discriminator"])[0]
            if isinstance(given, dict):
                yield Finding((key,), Code.MISSING_KEY, "is missing", "it decides which keys there are")
            else:
                yield _not_a_mapping(given, (key,))
        case "union_tag_invalid":
            key, allowed = _quoted(context["discriminator"])[0], _quoted(context["expected_tags"])
            want = f"it must be one of {', '.join(allowed)}"
            tag = str(context["tag"])
            yield Finding((key,), Code.NOT_ONE_OF, f"{shown(tag)} is not one of them", want, did_you_mean(tag, allowed))
        case other:
            raise AssertionError(f"no sentence for pydantic's {other}: {details}")


def _not_a_mapping(given: object, known: tuple[str, ...]) -> Finding:
    code = Code.EMPTY if given is None else Code.WRONG_SHAPE
    want = "it must be a mapping of keys" + (f": {', '.join(known)}" if known else "")
    return Finding((), code, "is empty" if given is None else f"is {shown(given)}", want)


def _quoted(names: str) -> tuple[str, ...]:
    return tuple(re.findall(r"'([^']*)'", names))


def keys_at(model: type[BaseModel], loc: Path) -> tuple[str, ...]:
    """The keys that the model at a location has; the location may hold list indexes, mapping keys and union tags."""
    found = descend(model, loc)
    return tuple(found.model_fields) if found is not None else ()
