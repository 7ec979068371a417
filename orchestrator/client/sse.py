"""Server-sent events, read line by line as the WHATWG says; comments keep a connection alive and say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `id` is the last that was said."""

    kind: str
    data: str
    id: str


def read_events(lines: Iterable[str], last_id: str = "") -> Iterator[ServerEvent]:
    """Events of a stream; what was begun and not ended is left out."""
    data: list[str] = []
    kind, last = "", last_id
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(kind or "message", "\n".join(data), last)
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                kind = value
            case "data":
                data.append(value)
            case "id" if "\0" not in value:
                last = value
