"""What jobs tell of themselves, as events: each note once, however often it is reported and whoever leads."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from orchestrator.ledger.change import Change
from orchestrator.ledger.rows import JobRow
from orchestrator.policy.queueing.orders import Note, NoteKind, Report

KINDS = tuple(kind.value for kind in NoteKind)
LOOKED_BACK = 200
"""Events of a job in which a new leader looks for notes that are in the books; a report holds fewer."""


@dataclass(slots=True)
class NoteBook:
    """Notes that are in the books, by job. `written` reads those of a job from the database: of one whose notes this
    leader has not seen yet."""

    written: Callable[[str], set[str]]
    _known: dict[str, set[str]] = field(default_factory=dict)

    def enter(self, change: Change, reports: Iterable[Report]) -> dict[str, set[str]]:
        """Events for what is new; give what is returned to `settle` once the change is committed."""
        entered: dict[str, set[str]] = {}
        for report in reports:
            job = change.jobs.get(report.job) if report.notes else None
            if job is None:
                continue
            known = self._known.get(job.id)
            known = self.written(job.id) if known is None else known
            for note in report.notes:
                if note.id not in known:
                    _say(change, job, note)
            entered[job.id] = {note.id for note in report.notes}
        return entered

    def settle(self, entered: dict[str, set[str]], living: Container[object]) -> None:
        """They are on the disk; jobs that live no more are forgotten."""
        self._known = {job: ids for job, ids in (self._known | entered).items() if job in living}


def _say(change: Change, job: JobRow, note: Note) -> None:
    place: dict[str, str | int] = {} if note.rank is None else {"rank": note.rank}
    if note.node:
        place["node"] = note.node
    change.event(note.kind.value, job, note=note.id, happened_ms=round(note.at_s * 1000), **place, **dict(note.data))
