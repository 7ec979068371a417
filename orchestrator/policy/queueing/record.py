"""Snapshots and decisions as text and back, and the fingerprint of a snapshot: what replays and the ledger keep.

Every value is an object that names its class, so that alternatives of equal shape stay apart. The text is canonical:
equal values give equal text.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
import json
from functools import cache
from types import ModuleType
from typing import Any

from orchestrator.policy import batch_plan, resize, windows
from orchestrator.policy.lending import session
from orchestrator.policy.queueing import decisions, parties, places, values
from orchestrator.policy.queueing.values import Snapshot


def _classes(*modules: ModuleType) -> dict[str, type[Any]]:
    """Every dataclass and enumeration that a module defines; later modules win where two share a name."""
    found: dict[str, type[Any]] = {}
    for module in modules:
        for value in vars(module).values():
            ours = isinstance(value, type) and value.__module__ == module.__name__
            if ours and (dataclasses.is_dataclass(value) or issubclass(value, enum.Enum)):
                found[_tag(value)] = value
    return found


def _tag(of: type[Any]) -> str:
    return f"{of.__module__.rpartition('.')[2]}.{of.__name__}"


_KNOWN = _classes(batch_plan, resize, windows, session, places, parties, values, decisions)


def to_text(value: Any) -> str:
    """Canonical JSON of a snapshot, a decision or a part of one. Holds: `from_text(to_text(value)) == value`."""
    return _json(_encoded(value))


def from_text(text: str) -> Any:
    """The value that `to_text` wrote. Raises: ValueError for text that is no such value."""
    try:
        return _decoded(json.loads(text))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no recorded snapshot or decision: {error}") from error


_PLAIN = (str, int, float, bool, type(None))
_MANY = ("pools", "waiting", "running", "leases", "claims", "promises")
_PRIME = 2**255 - 19


@dataclasses.dataclass(slots=True)
class Parts:
    """What there are many of in the last snapshot: the parts themselves, so that they stay what they are while they are
    known, their numbers by identity, and the sum of those."""

    parts: tuple[Any, ...] = ()
    known: set[int] = dataclasses.field(default_factory=set)
    numbers: dict[int, int] = dataclasses.field(default_factory=dict)
    total: int = 0

    def take(self, parts: tuple[Any, ...]) -> int:
        """The sum of these parts' numbers; those that were there the last time are not read again."""
        fresh = set(map(id, parts))
        gone, added = self.known - fresh, fresh - self.known
        for key in gone:
            self.total -= self.numbers.pop(key)
        for part in [part for part in parts if id(part) in added] if added else ():
            if id(part) not in self.numbers:
                number = self.numbers[id(part)] = _number(part)
                self.total += number
        self.parts, self.known = parts, fresh
        # The same object twice counts twice.
        return self.total if len(fresh) == len(parts) else sum(self.numbers[id(part)] for part in parts)


def fingerprint(snapshot: Snapshot, known: dict[str, Parts] | None = None) -> str:
    """sha256 of a snapshot, hexadecimal: with it the ledger says on what a decision was taken.

    What there are many of is summed part by part, so that order does not matter, and so that of snapshots that follow
    each other only what is new is read; `known` remembers the last one.
    """
    known = {} if known is None else known
    sums = {name: format(known.setdefault(name, Parts()).take(getattr(snapshot, name)) % _PRIME, "x") for name in _MANY}
    few = {one.name: getattr(snapshot, one.name) for one in dataclasses.fields(snapshot) if one.name not in _MANY}
    text = _json({name: _encoded(value) for name, value in few.items()} | sums)
    return hashlib.sha256(text.encode()).hexdigest()


def _number(part: Any) -> int:
    return int.from_bytes(hashlib.sha256(_json(_encoded(part)).encode()).digest(), "big")


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _encoded(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    match value:
        case enum.Enum():
            return {"": _tag(type(value)), "is": value.value}
        case tuple():
            return [_encoded(one) for one in value]
        case frozenset():
            return {"": "set", "of": sorted(_encoded(one) for one in value)}
        case dt.time():
            return {"": "time", "is": value.isoformat()}
        case _:
            kind: Any = type(value)
            tag, names = _form(kind)
            return {"": tag, **{name: _encoded(getattr(value, name)) for name in names}}


@cache
def _form(of: type[Any]) -> tuple[str, tuple[str, ...]]:
    return _tag(of), tuple(one.name for one in dataclasses.fields(of) if one.init)


def _decoded(value: Any) -> Any:
    match value:
        case list():
            return tuple(_decoded(one) for one in value)
        case {"": "set", "of": members}:
            return frozenset(members)
        case {"": "time", "is": text}:
            return dt.time.fromisoformat(text)
        case {"": tag, "is": text}:
            return _KNOWN[tag](text)
        case dict():
            return _KNOWN[value[""]](**{str(name): _decoded(one) for name, one in value.items() if name})
        case _:
            return value
