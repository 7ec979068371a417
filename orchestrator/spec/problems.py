"""What can be wrong with a file, as values: a closed set of codes, findings, located problems, and their error.

A `BadValueError` is raised by a function that types one scalar; a `Finding` is what a cross-field check yields,
relative to its model; a `Problem` is either of them with file, line and column. Callers read fields, never text.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from orchestrator.spec.errors import UserError


class Code(enum.StrEnum):
    """Every kind of problem that reading a file can report. Codes are never reused; tests pin one message of each."""

    UNREADABLE = "E101"
    SYNTAX = "E102"
    MIN_ABOVE_MAX = "E103"
    UNKNOWN_KEY = "E104"
    MISSING_KEY = "E105"
    DUPLICATE_KEY = "E106"
    WRONG_SHAPE = "E107"
    WRONG_VALUE = "E108"
    OUT_OF_BOUNDS = "E109"
    NOT_ONE_OF = "E110"
    WRONG_KIND = "E111"
    BAD_NAME = "E112"
    UNKNOWN_REFERENCE = "E113"
    CONFLICT = "E114"
    NO_EFFECT = "E115"
    UNSAFE_YAML = "E116"
    IN_THE_PAST = "E117"
    EMPTY = "E118"


# The next step of a code where the finding names none; `{file}` and `{kind}` are filled in when the problem is located.
NEXT_STEPS: dict[Code, str] = {
    Code.UNREADABLE: "Check the path and its permissions",
    Code.SYNTAX: "Mend the YAML there; what follows it in the file was not read",
    Code.MIN_ABOVE_MAX: "Swap or correct the two",
    Code.UNKNOWN_KEY: "Run 'tide schema {kind}' for every key",
    Code.MISSING_KEY: "Run 'tide schema {kind}' for every key",
    Code.DUPLICATE_KEY: "Keep one of the two",
    Code.WRONG_SHAPE: "Run 'tide schema {kind}' for the shape",
    Code.WRONG_VALUE: "Correct the value",
    Code.OUT_OF_BOUNDS: "Correct the value",
    Code.NOT_ONE_OF: "Correct the value",
    Code.WRONG_KIND: "Run 'tide schema --help' for the kinds",
    Code.BAD_NAME: "Rename it",
    Code.UNKNOWN_REFERENCE: "Name one that is there, or add it",
    Code.CONFLICT: "Change one of them",
    Code.NO_EFFECT: "Remove it, or change what keeps it from having an effect",
    Code.UNSAFE_YAML: "Write the value out in plain YAML",
    Code.IN_THE_PAST: "Name a later time",
    Code.EMPTY: "Write the value, or remove the key",
}

Part = str | int
Path = tuple[Part, ...]


class BadValueError(ValueError):
    """One scalar says something it may not: what is wrong (with the value), and what would be right."""

    def __init__(self, code: Code, what: str, want: str, next_step: str = "") -> None:
        super().__init__(code, what, want, next_step)
        self.code = code
        self.what = what
        self.want = want
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}; {self.want}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A cross-field problem; `at` is the path below the model that found it."""

    at: Path
    code: Code
    what: str
    want: str
    next_step: str = ""

    def below(self, *parts: Part) -> Finding:
        """The same finding, seen from a model further up."""
        return replace(self, at=(*parts, *self.at))


class FindingsError(ValueError):
    """Everything one model's cross-field checks found, raised once so that nothing hides behind the first."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings)
        self.findings = findings

    def __str__(self) -> str:
        return " / ".join(f"{dotted(found.at)}: {found.what}; {found.want}" for found in self.findings)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a file. `line` and `column` count from 1; 0 when the file as a whole is meant."""

    file: str
    line: int
    column: int
    code: Code
    path: str
    what: str
    want: str
    next_step: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        subject = f"{self.path}: " if self.path else ""
        end = "" if self.next_step.endswith("?") else "."
        return f"{place}: {self.code} {subject}{self.what}; {self.want}. {self.next_step}{end}"


class SpecError(UserError):
    """A file, or several, with everything that is wrong with them; ordered by place, survives pickling."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        assert problems, "a SpecError without a problem says nothing"
        first = problems[0]
        where = f"{first.file}:{first.line}:{first.column}" if first.line else first.file
        super().__init__(f"{first.code} {first.what}; {first.want}", where=where, next_step=first.next_step)
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        return (SpecError, (self.problems,))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def dotted(path: Path) -> str:
    """A path as people write it: `workers.min`, `pools[2].name`; the leading `spec` is left out."""
    shown = path[1:] if path[:1] == ("spec",) and len(path) > 1 else path
    return "".join(_step(part) for part in shown).removeprefix(".")


def _step(part: Part) -> str:
    # A key is the file's own text: one that would break the line, or steer a terminal, is shown escaped.
    return f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else repr(part)}"
