"""Frozen dataclasses to JSON and back, strictly: what crosses a process boundary is checked where it arrives.

Unknown keys, missing keys and wrong types are errors that name the field. Not-a-number and infinity survive.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}

# Every dataclass that is written or read here carries this as `__pydantic_config__`.
WIRE = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")


class WireError(ValueError):
    """Bytes that are not what they should be; the two ends run different versions, or a line was cut."""


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def prepare(*kinds: type) -> None:
    """Build what reading and writing these needs, about 10 ms each, ahead of time."""
    for kind in kinds:
        _adapter(kind)


def dump(value: Any) -> bytes:
    """One JSON object without line breaks."""
    return _adapter(type(value)).dump_json(value)


def load(kind: type[T], data: bytes | str) -> T:
    """The value `data` holds.

    Raises: WireError naming every field that is wrong.
    """
    try:
        value: T = _adapter(kind).validate_json(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'JSON'}: {e['msg']}" for e in error.errors())
        raise WireError(f"{kind.__name__}: {faults}") from None
    return value
