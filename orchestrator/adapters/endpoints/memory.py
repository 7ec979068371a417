"""What lending remembers of an endpoint's demand and of how long recalls took, as a file: a new orchestrator goes on
with it."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.adapters.files import read_json, write_json
from orchestrator.policy.lending.decide import Memory
from orchestrator.policy.lending.forecast import Errors
from orchestrator.policy.lending.history import Day, History

_FORM = 1


def write_memory(path: Path, memory: Memory, drains_s: tuple[float, ...] = ()) -> None:
    """Replace what was written before. Raises: OSError."""
    days = [{**asdict(day), "date": day.date.isoformat()} for day in memory.history.days]
    history = {**asdict(memory.history), "days": days}
    known = {"history": history, "errors": asdict(memory.errors), "lent_s": memory.lent_s, "drains_s": drains_s}
    write_json(path, {"form": _FORM, **known})


def read_drains(path: Path) -> tuple[float, ...]:
    """How long training took to let go at the last recalls; none where nobody wrote it down. Raises: OSError."""
    data: dict[str, Any] = read_json(path) or {}
    return tuple(data.get("drains_s", ())) if data.get("form") == _FORM else ()


def read_memory(path: Path) -> Memory:
    """What was written last; an empty one where there is none, or one of another form. Raises: OSError."""
    data: dict[str, Any] | None = read_json(path)
    if data is None or data.get("form") != _FORM:
        return Memory()
    past = data["history"]
    days = tuple(
        Day(
            date=dt.date.fromisoformat(day["date"]),
            sums=tuple(day["sums"]),
            counts=tuple(day["counts"]),
            max_rise=day["max_rise"],
            lead_s=day.get("lead_s", 0.0),  # an earlier version did not say
        )
        for day in past["days"]
    )
    recent = tuple((at_s, rps) for at_s, rps in past["recent"])
    waiting = tuple((due_s, rps) for due_s, rps in data["errors"]["waiting"])
    return Memory(
        history=History(days=days, recent=recent, seen_s=past["seen_s"], last_s=past["last_s"]),
        errors=Errors(waiting=waiting, ratios=tuple(data["errors"]["ratios"])),
        lent_s=data["lent_s"],
    )
