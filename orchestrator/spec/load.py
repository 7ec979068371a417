"""Files to specs: reads a file once, checks every document in it, and reports all that is wrong together.

Every field is checked always. What a part's fields say about each other is checked when each of them is right by
itself (unknown keys aside): a comparison with a value that is wrong would only repeat the first problem.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.spec.base import API_VERSION
from orchestrator.spec.fields import did_you_mean
from orchestrator.spec.kinds import KINDS, Spec
from orchestrator.spec.nodes import MapNode, Node, ScalarNode, to_python
from orchestrator.spec.problems import NEXT_STEPS, Code, Finding, Problem, SpecError
from orchestrator.spec.reader import MAX_BYTES, read_documents
from orchestrator.spec.scalars import shown
from orchestrator.spec.translate import Locator, remove_key

K = TypeVar("K", bound=Spec)


@dataclass(frozen=True, slots=True)
class Report:
    """What a file holds: the specs that are right, all problems, and how many documents are of other programs."""

    specs: tuple[Spec, ...]
    problems: tuple[Problem, ...]
    num_foreign: int = 0


def load_file(path: str | Path, *, now: dt.datetime | None = None) -> tuple[Spec, ...]:
    """Every spec of a YAML file, in order.

    With `now` (aware), deadlines that have passed are problems, too.
    Raises: SpecError with every problem of the file.
    """
    return _specs(check_file(path, now=now))


def load_text(text: str, where: str = "<text>", *, now: dt.datetime | None = None) -> tuple[Spec, ...]:
    """As `load_file`, from a text; `where` names its origin in problems. JSON is read as well."""
    return _specs(check_text(text, where, now=now))


def load_one(path: str | Path, kind: type[K], *, now: dt.datetime | None = None) -> K:
    """The one spec of a file that must hold exactly one document, of this kind.

    Raises: SpecError, also when the file holds another kind or more than one document.
    """
    return load_one_of(path, (kind,), now=now)


def load_one_of(path: str | Path, kinds: tuple[type[K], ...], *, now: dt.datetime | None = None) -> K:
    """As `load_one`, where several kinds will do."""
    specs = load_file(path, now=now)
    first = specs[0]
    if len(specs) == 1 and isinstance(first, kinds):
        return first
    names = ", ".join(type(spec).__name__ for spec in specs)
    want = f"it must hold one {' or '.join(kind.__name__ for kind in kinds)} and nothing else"
    raise SpecError((_about_file(str(path), Code.WRONG_KIND, f"holds {names}", want),))


def check_file(path: str | Path, *, now: dt.datetime | None = None, skip_foreign: bool = False) -> Report:
    """As `load_file`, but reports instead of raising; with `skip_foreign`, other programs' documents are counted."""
    try:
        text = _read(Path(path))
    except SpecError as error:
        return Report((), error.problems)
    return check_text(text, str(path), now=now, skip_foreign=skip_foreign)


def check_text(text: str, where: str, *, now: dt.datetime | None = None, skip_foreign: bool = False) -> Report:
    """As `check_file`, from a text."""
    reading = read_documents(text)
    documents = [node for node in reading.documents if not (isinstance(node, ScalarNode) and node.value is None)]
    ours = [node for node in documents if not (skip_foreign and is_foreign(node))]
    problems = [Locator(where, MapNode(flaw.mark, {}, {}), "").flaw(flaw) for flaw in reading.flaws]
    specs: list[Spec] = []
    for document in ours:
        checked = _check_document(document, where, now)
        specs += checked.specs
        problems += checked.problems
    if not documents and not problems:
        problems.append(_about_file(where, Code.EMPTY, "holds no document", "it must hold one at least"))
    problems.sort(key=lambda problem: (problem.line, problem.column, problem.code))
    return Report(tuple(specs), tuple(problems), len(documents) - len(ours))


def is_foreign(document: Node) -> bool:
    """Whether a document belongs to another program: neither our apiVersion nor one of our kinds."""
    if not isinstance(document, MapNode):
        return True
    version, kind = _header(document, "apiVersion"), _header(document, "kind")
    return not (version or "").startswith("tideline") and kind not in KINDS


def _check_document(document: Node, where: str, now: dt.datetime | None) -> Report:
    kind = _header(document, "kind") or ""
    locate = Locator(where, document, kind if kind in KINDS else "")
    problems = [locate.finding(finding) for finding in _header_findings(document)]
    data = to_python(document)
    if kind not in KINDS or not isinstance(data, dict):
        return Report((), tuple(problems))
    data["apiVersion"] = API_VERSION
    try:
        spec = KINDS[kind].model_validate(data)
    except ValidationError as error:
        problems += locate.invalid(error, KINDS[kind])
        problems += _behind_unknown_keys(data, error, KINDS[kind], locate)
        return Report((), tuple(dict.fromkeys(problems)))
    problems += (locate.finding(finding) for finding in (spec.time_findings(now) if now else ()))
    return Report((spec,), tuple(problems))


def _behind_unknown_keys(data: object, error: ValidationError, model: type[Spec], locate: Locator) -> Iterator[Problem]:
    """What is wrong between fields of parts that also hold unknown keys; without this the key would hide it.

    What is missing or empty without the unknown key is left out: it is most likely what the key was meant to be.
    """
    unknown = [details["loc"] for details in error.errors() if details["type"] == "extra_forbidden"]
    if not unknown:
        return
    for loc in unknown:
        remove_key(data, loc)
    try:
        model.model_validate(data)
    except ValidationError as rest:
        told = locate.invalid(rest, model)
        yield from (problem for problem in told if problem.code not in (Code.EMPTY, Code.MISSING_KEY))


def _header_findings(document: Node) -> list[Finding]:
    if not isinstance(document, MapNode):
        want = "it must be a mapping with apiVersion, kind, metadata and spec"
        return [Finding((), Code.WRONG_SHAPE, "the document is not a mapping", want)]
    kinds = tuple(KINDS)
    version, kind = _header(document, "apiVersion"), _header(document, "kind")
    found = []
    if version != API_VERSION:
        what = f"{shown(version)} is not a version of ours" if version else _absent(document, "apiVersion")
        found.append(Finding(("apiVersion",), Code.WRONG_KIND, what, f"it must be {API_VERSION}"))
    if kind not in kinds:
        what = f"there is no kind {shown(kind)}" if kind else _absent(document, "kind")
        want = f"it must be one of {', '.join(kinds)}"
        found.append(Finding(("kind",), Code.WRONG_KIND, what, want, did_you_mean(kind or "", kinds)))
    return found


def _absent(document: MapNode, key: str) -> str:
    return "is not text" if key in document.items else "is missing"


def _header(document: Node, key: str) -> str | None:
    node = document.items.get(key) if isinstance(document, MapNode) else None
    return node.value if isinstance(node, ScalarNode) else None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SpecError((_about_file(str(path), Code.UNREADABLE, f"cannot be read ({reason})", _FILE_WANT),)) from None
    except ValueError:
        raise SpecError((_about_file(str(path), Code.UNREADABLE, "is not a path", _FILE_WANT),)) from None
    if len(raw) > MAX_BYTES:
        what, want = f"is larger than {MAX_BYTES // 1024} KiB", "specs are small; data does not belong in them"
        raise SpecError((_about_file(str(path), Code.UNREADABLE, what, want),))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 (byte {error.start}, line {line})"
        about = _about_file(str(path), Code.UNREADABLE, what, "it must be text in UTF-8")
        raise SpecError((replace(about, next_step="Save it as UTF-8"),)) from None


_FILE_WANT = "it must be a YAML file"


def _about_file(file: str, code: Code, what: str, want: str) -> Problem:
    next_step = "Write a document, or remove the file" if code is Code.EMPTY else NEXT_STEPS[code].format(kind="KIND")
    return Problem(file, 0, 0, code, "", what, want, next_step)


def _specs(report: Report) -> tuple[Spec, ...]:
    if report.problems:
        raise SpecError(report.problems)
    return report.specs
