"""What every model of a spec shares: strict, frozen, closed, with cross-field checks that report all they find."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.spec.fields import Name, Text, did_you_mean
from orchestrator.spec.problems import Code, Finding, FindingsError
from orchestrator.spec.scalars import render_real

API_VERSION: Final = "tideline/v1"
ApiVersion = Literal["tideline/v1"]


class SpecModel(BaseModel):
    """A frozen part of a spec. Attribute names are the YAML's keys; defaults live here and nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    def cross_check(self) -> Iterator[Finding]:
        """Yield what is wrong between fields; the fields by themselves are right when this runs."""
        yield from ()

    @model_validator(mode="after")
    def _run_cross_check(self) -> Self:
        found = tuple(self.cross_check())
        if found:
            raise FindingsError(found)
        return self

    def was_set(self, key: str) -> bool:
        """Whether the file wrote the key, as opposed to getting its default."""
        return key in self.model_fields_set

    def to_document(self) -> dict[str, Any]:
        """The model as YAML and JSON have it: text with units, only what was set. Reads back as an equal model."""
        return self.model_dump(mode="json", exclude_unset=True)


class Metadata(SpecModel):
    """Who an object is."""

    name: Name
    """Unique among the objects of its kind."""
    tenant: Name = "default"
    """Whose it is: decides quota, budget and who may see it."""
    labels: Mapping[Name, Text] = Field(default_factory=dict)
    """Free marks to select by."""
    description: Text | None = None
    """One line for people."""


class Document(SpecModel):
    """What stands at the top of every document; each kind adds `kind` and `spec`."""

    apiVersion: ApiVersion = API_VERSION  # noqa: N815 - the key is Kubernetes' own
    """The version of this format."""
    metadata: Metadata
    """Who the object is."""

    def time_findings(self, now: dt.datetime) -> Iterator[Finding]:
        """Yield what is wrong because of what time it is; `now` is aware."""
        yield from ()

    def to_document(self) -> dict[str, Any]:
        """As every model's, with apiVersion and kind also when code left them to their defaults."""
        return {"apiVersion": self.apiVersion, "kind": type(self).__name__, **super().to_document()}


def min_above_max(
    low: float,
    high: float,
    *,
    names: tuple[str, str] = ("min", "max"),
    render: Callable[[float], str] = render_real,
    next_step: str = "",
) -> Iterator[Finding]:
    """A finding at the lower bound when it is above the upper one; `names` are the two keys."""
    if low > high:
        what = f"{render(float(low))} is above {names[1]} ({render(float(high))})"
        yield Finding((names[0],), Code.MIN_ABOVE_MAX, what, f"{names[0]} must be at most {names[1]}", next_step)


def repeated(names: Iterable[str], at: str, key: str = "name") -> Iterator[Finding]:
    """A finding at every list entry whose name an earlier one has."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            path = (at, index, key) if key else (at, index)
            what = f"{name!r} is at {at}[{seen[name]}] already"
            yield Finding(path, Code.CONFLICT, what, "each may stand once", "Rename or remove one of them")
        seen.setdefault(name, index)


def unknown_name(name: str, known: Iterable[str], at: tuple[str | int, ...], noun: str) -> Iterator[Finding]:
    """A finding when a name refers to nothing in the same file."""
    there = tuple(known)
    if name not in there:
        listed = ", ".join(sorted(there)) or "none"
        want = f"it must be one of the {noun} in this file: {listed}"
        yield Finding(at, Code.UNKNOWN_REFERENCE, f"there is no {name!r}", want, did_you_mean(name, there))


def without_effect(model: SpecModel, keys: Iterable[str], because: str) -> Iterator[Finding]:
    """A finding for every key that the file sets although nothing would read it in this setup."""
    for key in keys:
        if model.was_set(key):
            yield Finding((key,), Code.NO_EFFECT, "has no effect", because)
