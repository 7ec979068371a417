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
from types import ModuleType
from typing import Any

from orchestrator.policy import batch_plan, resize, windows
from orchestrator.policy.queueing import decisions, parties, places, values
from orchestrator.policy.queueing.decisions import Decisions
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


_KNOWN = _classes(batch_plan, resize, windows, places, parties, values, decisions)


def to_text(value: Snapshot | Decisions) -> str:
    """Canonical JSON. Holds: `from_text(to_text(value)) == value`."""
    return json.dumps(_encoded(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_text(text: str) -> Any:
    """The value that `to_text` wrote. Raises: ValueError for text that is no such value."""
    try:
        return _decoded(json.loads(text))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no recorded snapshot or decision: {error}") from error


def fingerprint(snapshot: Snapshot) -> str:
    """sha256 of a snapshot, hexadecimal: with it the ledger says on what a decision was taken."""
    return hashlib.sha256(to_text(snapshot).encode()).hexdigest()


def _encoded(value: Any) -> Any:
    match value:
        case enum.Enum():
            return {"": _tag(type(value)), "is": value.value}
        case tuple():
            return [_encoded(one) for one in value]
        case frozenset():
            return {"": "set", "of": sorted(_encoded(one) for one in value)}
        case dt.time():
            return {"": "time", "is": value.isoformat()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            names = (one.name for one in dataclasses.fields(value))
            return {"": _tag(type(value)), **{name: _encoded(getattr(value, name)) for name in names}}


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
