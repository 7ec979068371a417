"""Reads for people: what happened, what was decided, and who is told of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from orchestrator.ledger import forms, notices, tables
from orchestrator.ledger.notes import KINDS as NOTE_KINDS
from orchestrator.ledger.notes import LOOKED_BACK
from orchestrator.ledger.queries import Queries, page_of
from orchestrator.ledger.rows import NoticeRow
from orchestrator.ledger.shelf import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `seq` rises, with gaps where events were purged."""

    seq: int
    at_ms: int
    kind: str
    job: str | None
    attempt: int | None
    tenant: str | None
    actor: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A decision that did something; `what` is the JSON list of what was started, changed and stopped."""

    seq: int
    at_ms: int
    token: int
    snapshot_hash: str
    num_waiting: int
    num_running: int
    what: str


_EVENTS = Form(tables.events, Event, ("seq",), read={"data": json.loads})
_DECISIONS = Form(tables.decisions, DecisionRow, ("seq",))


class EventReads(Queries):
    """Events, decisions and notices."""

    def events(
        self, *, after: int = 0, job: str | None = None, tenant: str | None = None, limit: int = 1000
    ) -> list[Event]:
        """Events after a number, oldest first."""
        table = tables.events.c
        where = [table.seq > after]
        where += [] if job is None else [table.job == job]
        where += [] if tenant is None else [table.tenant == tenant]
        return self._rows(_EVENTS, page_of(_EVENTS, where, table.seq, limit))

    def first_event(self) -> int:
        """The number of the oldest event that is still kept; 0 if there is none. Older ones were purged."""
        return self._scalar(select(func.min(tables.events.c.seq))) or 0

    def last_event(self) -> int:
        """The number of the newest event; 0 if there is none."""
        return self._scalar(select(func.max(tables.events.c.seq))) or 0

    def event_before(self, at_ms: int) -> int:
        """The number of the last event before a time; 0 if there is none. A few looks, however many events there
        are: their times rise with their numbers."""
        low, high = 0, self.last_event()
        table = tables.events.c
        while low < high:
            middle = (low + high + 1) // 2
            query = select(table.at_ms).where(table.seq <= middle).order_by(table.seq.desc()).limit(1)
            found = self._scalar(query)
            if found is None or found < at_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def events_of(self, kinds: Collection[str], *, after: int, until: int) -> list[Event]:
        """All events of these kinds with numbers above `after` and up to `until`, oldest first."""
        table = tables.events.c
        where = [table.seq > after, table.seq <= until, table.kind.in_(sorted(kinds))]
        return self._rows(_EVENTS, page_of(_EVENTS, where, table.seq, 1_000_000))

    def told(self, job_id: str, kinds: Collection[str]) -> list[Event]:
        """The last events of these kinds of a job, oldest first."""
        table = tables.events.c
        where = [table.kind.in_(sorted(kinds)), table.job == job_id]
        return self._rows(_EVENTS, page_of(_EVENTS, where, table.seq.desc(), LOOKED_BACK))[::-1]

    def notes(self, job_id: str) -> set[str]:
        """Ids of the last notes of a job that are in the books."""
        return {event.data["note"] for event in self.told(job_id, NOTE_KINDS)}

    def decisions(self, *, after: int = 0, limit: int = 100) -> list[DecisionRow]:
        """Decisions after a number, oldest first."""
        table = tables.decisions.c
        return self._rows(_DECISIONS, page_of(_DECISIONS, [table.seq > after], table.seq, limit))

    def notices(self, job_id: str) -> list[NoticeRow]:
        """Who is told of a job's end, and what became of it."""
        table = tables.notices.c
        return self._rows(forms.NOTICES, page_of(forms.NOTICES, [table.job == job_id], table.id, 1000))

    def due_notices(self, *, now_s: float, most_each: int) -> list[NoticeRow]:
        """Messages whose next try has come, so many of each address."""
        with self._database.reading() as connection:
            return notices.due(connection, round(now_s * 1000), most_each)
