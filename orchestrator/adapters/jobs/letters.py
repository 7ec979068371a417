"""What control plane and job processes write to each other, as JSON: the order that holds, and reports of attempts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from orchestrator.policy.lending.session import Ending
from orchestrator.policy.queueing.decisions import Admit, ChangeCause, Evict, Resize
from orchestrator.policy.queueing.orders import Measured, Note, NoteKind, Order, Phase, Report
from orchestrator.policy.queueing.record import from_text, to_text

CALLED_BACK = frozenset({ChangeCause.RECALL, ChangeCause.EMERGENCY})
"""Causes of a resize whose seats are waited for: who sits there when they are due is killed."""
_LATER = frozenset({"urgent", "night_over", "called_back"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """The order that holds for a job. `seats`: workers by node, none for a stop. `at_s`: when it was given (UTC
    seconds); `until_s`: when a stop must be over, or seats that are called back must be free. `urgent`: whoever waits
    for the devices cannot wait for state to be written to storage; it is safe in memory first. `night_over`: a stop
    because the job's window closes: what was trained is evaluated and registered as far as there is time.
    `called_back`: a stop because lent devices are wanted back: the same, but once they are free."""

    id: str
    attempt: int
    at_s: float
    seats: Mapping[str, int] = field(default_factory=dict)
    stop: bool = False
    until_s: float | None = None
    urgent: bool = False
    night_over: bool = False
    called_back: bool = False

    @property
    def workers(self) -> int:
        """Workers in all."""
        return sum(self.seats.values())

    def follows(self, before: Letter | None) -> bool:
        """Whether this is news after `before`: a later attempt, or the stop of the same one."""
        if before is None:
            return True
        return self.attempt > before.attempt or (self.attempt == before.attempt and self.stop and not before.stop)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        data = {**dataclasses.asdict(self), "seats": dict(self.seats)}
        # A process that was started by an earlier version reads what it knows.
        return {key: value for key, value in data.items() if value or key not in _LATER}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Letter:
        """The letter that `to_json` wrote; what a later version has added says nothing here."""
        known = {one.name for one in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


def letter_of(order: Order, *, now_s: float) -> Letter:
    """An order of the control cycle as a letter."""
    match order.what:
        case Admit() | Resize() as what:
            seats: dict[str, int] = {}
            for one in what.placement:
                seats[one.node] = seats.get(one.node, 0) + one.workers
            due = isinstance(what, Resize) and what.cause in CALLED_BACK
            until_s = what.drain_until_s if due and isinstance(what, Resize) else None
            urgent = isinstance(what, Resize) and what.cause is ChangeCause.EMERGENCY
            return Letter(id=order.id, attempt=order.attempt, at_s=now_s, seats=seats, until_s=until_s, urgent=urgent)
        case Evict() as what:
            urgent = what.cause is ChangeCause.EMERGENCY
            return Letter(
                id=order.id,
                attempt=order.attempt,
                at_s=now_s,
                stop=True,
                until_s=what.drain_until_s,
                urgent=urgent,
                night_over=what.cause is ChangeCause.WINDOW_CLOSED,
                called_back=what.cause in CALLED_BACK,
            )
        case _:
            assert_never(order.what)


def report_to_json(report: Report) -> dict[str, Any]:
    """A report as JSON values."""
    known = report.measured
    measured = None
    if known is not None:
        outlook = [to_text(one) for one in known.outlook]
        measured = {
            "plan": to_text(known.plan),
            "outlook": outlook,
            "stall_s": known.stall_s,
            "stop_s": known.stop_s,
            "slow_stop_s": known.slow_stop_s,
            "finish_s": known.ending.finish_s,
            "leave_s": known.ending.leave_s,
        }
    fields = {one.name: getattr(report, one.name) for one in dataclasses.fields(report)}
    return {**fields, "measured": measured, "notes": [dataclasses.asdict(note) for note in report.notes]}


def report_from_json(data: Mapping[str, Any]) -> Report:
    """The report that `report_to_json` wrote."""
    known = data["measured"]
    measured = None
    if known is not None:
        outlook = tuple(from_text(one) for one in known["outlook"])
        measured = Measured(
            plan=from_text(known["plan"]),
            outlook=outlook,
            stall_s=known["stall_s"],
            stop_s=known["stop_s"],
            slow_stop_s=known.get("slow_stop_s"),
            ending=Ending(leave_s=known.get("leave_s", 0.0), finish_s=known.get("finish_s", 0.0)),
        )
    parts = tuple((name, seconds) for name, seconds in data["stalled_worker_s"])
    # A process that was started by an earlier version says nothing of notes.
    notes = tuple(_note(note) for note in data.get("notes", ()))
    fields = {"phase": Phase(data["phase"]), "stalled_worker_s": parts, "measured": measured, "notes": notes}
    return Report(**{**data, **fields})


def _note(data: Mapping[str, Any]) -> Note:
    pairs = tuple((name, value) for name, value in data["data"])
    return Note(**{**data, "kind": NoteKind(data["kind"]), "data": pairs})
