"""What happens in a study, as values that are written down before anything follows from them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.policy.study.values import TrialState


class Ruling(enum.StrEnum):
    """What becomes of a trial after a report."""

    GO_ON = "go_on"
    PAUSE = "pause"
    STOP = "stop"
    FINISH = "finish"
    FAIL = "fail"


class Ending(enum.StrEnum):
    """Why an attempt of a trial ended; the trial itself may go on."""

    LEFT = "left"  # after a report, as it was told
    PREEMPTED = "preempted"  # its workers went to somebody else, in order
    RESIZED = "resized"
    LOST = "lost"  # its node or a rank died
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the study itself was asked to stop, or its budget ended
    ABANDONED = "abandoned"  # the driver died


class Close(enum.StrEnum):
    """Why a study's session ended."""

    TRIALS = "trials"
    GRID = "grid"
    DEVICE_HOURS = "device_hours"
    USD = "usd"
    KWH = "kwh"
    WORTH = "worth"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def is_done(self) -> bool:
        """Whether the search is over, as opposed to having been stopped on the way."""
        return self not in (Close.INTERRUPTED, Close.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A trial of an earlier study, for a searcher to learn from. `cut_at`: the step after which it was stopped early
    and `value` was measured; None for one that ran to its end."""

    study: str
    trial: str
    config: dict[str, Any]
    value: float
    cut_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The study as it stands in its file; a later one replaces an earlier one's budget and limits.

    `earlier`: the trials of other studies that the searcher began with, which those studies may since have lost or
    added to.
    """

    at_s: float
    study: dict[str, Any]
    dataset_hash: str
    versions: dict[str, str]
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A new trial. `repeat_of`: the trial whose configuration runs again with another seed."""

    at_s: float
    trial: str
    config: dict[str, Any]
    seed: int
    repeat_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """An attempt of a trial holds workers from now on."""

    at_s: float
    trial: str
    attempt: int
    step: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """Steps as they were run: (step, loss, learning rate)."""

    at_s: float
    trial: str
    points: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What an attempt has held so far, in device-seconds; written now and then, so that a crash loses little of it."""

    at_s: float
    trial: str
    attempt: int
    device_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """A trial continues from another one's state with another configuration; `generation` names its new states."""

    trial: str
    source: str
    source_step: int
    config: dict[str, Any]
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A trial was measured after `step`, and what was decided then, for it and through it for others."""

    at_s: float
    trial: str
    attempt: int
    step: int
    metrics: dict[str, float]
    device_s: float
    ruling: Ruling
    detail: str = ""
    stops: tuple[str, ...] = ()
    copies: tuple[Copying, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOver:
    """An attempt holds no worker any more. `lost_steps`: run, but not in the state that is kept."""

    at_s: float
    trial: str
    attempt: int
    device_s: float
    why: Ending
    step: int
    lost_steps: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOver:
    """A trial is never run again, for a reason other than a report's ruling."""

    at_s: float
    trial: str
    state: TrialState
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A session ended."""

    at_s: float
    why: Close
    detail: str


Event = Opened | Drawn | Began | Stepped | Metered | Reported | AttemptOver | TrialOver | Closed

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Opened, Drawn, Began, Stepped, Metered, Reported, AttemptOver, TrialOver, Closed)
}
_ENUMS: Mapping[tuple[str, str], type[enum.StrEnum]] = {
    ("Reported", "ruling"): Ruling,
    ("AttemptOver", "why"): Ending,
    ("TrialOver", "state"): TrialState,
    ("Closed", "why"): Close,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it is kept: its kind, whose it is, and its fields."""

    kind: str
    trial: str
    at_s: float
    body: dict[str, Any] = field(default_factory=dict)


def to_stored(event: Event) -> Stored:
    """For the journal."""
    body = dataclasses.asdict(event)
    return Stored(type(event).__name__, str(body.get("trial", "")), event.at_s, body)


def from_stored(stored: Stored) -> Event:
    """The inverse of `to_stored`. Raises: ValueError for a kind that this version does not know."""
    kind = _KINDS.get(stored.kind)
    if kind is None:
        raise ValueError(f"an event of kind {stored.kind!r}; this version knows {', '.join(sorted(_KINDS))}")
    fields = {name: _typed(stored.kind, name, value) for name, value in stored.body.items()}
    event: Event = kind(**fields)
    return event


def _typed(kind: str, name: str, value: Any) -> Any:
    if (kind, name) in _ENUMS:
        return _ENUMS[kind, name](value)
    if (kind, name) == ("Reported", "copies"):
        return tuple(Copying(**one) for one in value)
    if (kind, name) == ("Opened", "earlier"):
        return tuple(Earlier(**one) for one in value)
    if (kind, name) == ("Stepped", "points"):
        return tuple((int(step), float(loss), float(lr)) for step, loss, lr in value)
    return tuple(value) if isinstance(value, list) and name == "stops" else value
