"""What an endpoint's process writes down of its replicas, for whoever decides about its devices and whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.adapters.files import read_json, write_json
from orchestrator.policy.lending.rates import Counter

_FILE = "serving.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look. `counters`: requests that came, by replica; `answering`: replicas that take requests; `cold_starts_s`:
    how long the last of them took, from an order to the answer. `urls` by tier; `ref`: the version that answers;
    `nodes`: where replicas were a few seconds ago; `rollout`: how far the last change of the file has come (state and
    detail); `extra`: replicas beyond the lease that are there, or may start, until that is over; `canary`: the version
    on trial, its share, and why it was taken back."""

    answering: int = 0
    counters: tuple[Counter, ...] = ()
    cold_starts_s: tuple[float, ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)
    ref: str = ""
    nodes: Mapping[str, int] = field(default_factory=dict)
    rollout: Mapping[str, str] | None = None
    extra: int = 0
    canary: Mapping[str, Any] | None = None


def write_sight(folder: Path, sight: Sight) -> None:
    """Replace what was written before."""
    write_json(folder / _FILE, asdict(sight))


def read_sight(folder: Path) -> Sight:
    """What was written last; nothing answers where nothing was."""
    data: dict[str, Any] | None = read_json(folder / _FILE)
    if data is None:
        return Sight()
    counters = tuple(Counter(**one) for one in data["counters"])
    return Sight(**{**data, "counters": counters, "cold_starts_s": tuple(data["cold_starts_s"])})
