"""Everything that is alive, in memory as it is committed: what a cycle reads, and what changes are drafted on.

Jobs that have ended, their attempts and confirmed orders leave it; people read those from the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from orchestrator.ledger import forms, tables
from orchestrator.ledger.facts import ClusterFacts
from orchestrator.ledger.rows import (
    AccountRow,
    AttemptRow,
    ClaimRow,
    JobRow,
    LeaseRow,
    MeterRow,
    OrderRow,
    PromiseRow,
    RecentRow,
    ScheduleRow,
    TempoRow,
)
from orchestrator.ledger.shelf import Shelf
from orchestrator.ledger.states import ENDED, HOLDING, WAITING, JobState
from orchestrator.ledger.views import job_value
from orchestrator.policy.queueing.orders import Report
from orchestrator.policy.queueing.values import Job


def _jobs() -> Shelf[JobRow]:
    return Shelf(forms.JOBS)


@dataclass(slots=True)
class Mirror:
    """Shelves, and what follows from them: `waiting` jobs as the queues see them (`untold`: those that have no reason
    to wait yet), `holding` jobs.

    `reports`: the last that was said of each running attempt, and `heard_ms` when; only in memory, for it is said again
    and again.
    `finished`: how the latest run of each name ended that some job waits for (None: it has not).
    """

    facts: ClusterFacts = field(default_factory=ClusterFacts)
    jobs: Shelf[JobRow] = field(default_factory=_jobs)
    attempts: Shelf[AttemptRow] = field(default_factory=lambda: Shelf(forms.ATTEMPTS))
    leases: Shelf[LeaseRow] = field(default_factory=lambda: Shelf(forms.LEASES))
    meters: Shelf[MeterRow] = field(default_factory=lambda: Shelf(forms.METERS))
    accounts: Shelf[AccountRow] = field(default_factory=lambda: Shelf(forms.ACCOUNTS))
    orders: Shelf[OrderRow] = field(default_factory=lambda: Shelf(forms.ORDERS))
    recents: Shelf[RecentRow] = field(default_factory=lambda: Shelf(forms.RECENTS))
    claims: Shelf[ClaimRow] = field(default_factory=lambda: Shelf(forms.CLAIMS))
    promises: Shelf[PromiseRow] = field(default_factory=lambda: Shelf(forms.PROMISES))
    tempos: Shelf[TempoRow] = field(default_factory=lambda: Shelf(forms.TEMPOS))
    schedules: Shelf[ScheduleRow] = field(default_factory=lambda: Shelf(forms.SCHEDULES))
    waiting: dict[str, Job] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)
    holding: set[str] = field(default_factory=set)
    reports: dict[str, Report] = field(default_factory=dict)
    heard_ms: dict[str, int] = field(default_factory=dict)
    finished: dict[str, JobState | None] = field(default_factory=dict)
    clock_ms: int = 0
    next_lease: int = 1

    def load(self, connection: Connection, facts: ClusterFacts) -> None:
        """Read everything that is alive."""
        self.facts = facts
        self.jobs.fill(forms.JOBS.load(connection, tables.jobs.c.state.not_in(sorted(ENDED)), order=tables.jobs.c.id))
        self.attempts.fill(forms.ATTEMPTS.load(connection, tables.attempts.c.ended_ms.is_(None)))
        self.orders.fill(forms.ORDERS.load(connection, order=tables.outbox.c.seq))
        books: list[Shelf[Any]] = [self.leases, self.meters, self.accounts, self.recents]
        for shelf in [*books, self.claims, self.promises, self.tempos, self.schedules]:
            shelf.fill(shelf.form.load(connection))
        self.clock_ms = connection.execute(select(tables.leader.c.clock_ms)).scalar_one()
        self.next_lease = 1 + (connection.execute(select(func.max(tables.leases.c.id))).scalar() or 0)
        self._index(connection)

    def _index(self, connection: Connection) -> None:
        self.waiting, self.untold, self.holding, self.finished = {}, set(), set(), {}
        self.reports, self.heard_ms = {}, {}
        rows = list(self.jobs.rows.values())
        self.await_names(connection, rows)
        self.note_jobs(rows)

    def await_names(self, connection: Connection, rows: Iterable[JobRow]) -> None:
        """Learn how the jobs ended that these ones wait for."""
        for name in sorted({name for row in rows for name in row.shape.after} - self.finished.keys()):
            query = select(tables.jobs.c.state).where(tables.jobs.c.name == name)
            state = connection.execute(query.order_by(tables.jobs.c.run.desc()).limit(1)).scalar()
            self.finished[name] = JobState(state) if state in ENDED else None

    def note_jobs(self, rows: Iterable[JobRow]) -> None:
        """Keep what follows from jobs up to date: these ones were added or changed."""
        for row in rows:
            if row.name in self.finished:
                self.finished[row.name] = row.state if row.state in ENDED else None
                self._requeue(row.name)
            self._note(row)

    def _note(self, row: JobRow) -> None:
        if row.state in WAITING:
            fresh = job_value(row, self._unmet(row))
            # What says the same stays the same object: nobody need look at it again.
            if self.waiting.get(row.id) != fresh:
                self.waiting[row.id] = fresh
        else:
            self.waiting.pop(row.id, None)
        if row.state in WAITING and row.reason is None:
            self.untold.add(row.id)
        else:
            self.untold.discard(row.id)
        if row.state in HOLDING:
            self.holding.add(row.id)
        else:
            self.holding.discard(row.id)
            self.reports.pop(row.id, None)
            self.heard_ms.pop(row.id, None)
        if row.state in ENDED:
            self.jobs.rows.pop(row.id, None)

    def note_reasons(self, rows: Iterable[JobRow]) -> None:
        """Keep why jobs wait; to the queues they are what they were."""
        for row in rows:
            self.jobs.rows[row.id] = row
            self.untold.discard(row.id)

    def note_report(self, report: Report, now_ms: int) -> None:
        """Keep the last that was said of a running attempt; the same again is the same object as before."""
        self.heard_ms[report.job] = now_ms
        before = self.reports.get(report.job)
        if before != report and (before is None or before.attempt <= report.attempt):
            self.reports[report.job] = report

    def _requeue(self, name: str) -> None:
        """What jobs wait for has changed where they wait for this name."""
        for job_id in list(self.waiting):
            row = self.jobs.rows[job_id]
            if name in row.shape.after:
                self.waiting[job_id] = job_value(row, self._unmet(row))

    def _unmet(self, row: JobRow) -> tuple[str, ...]:
        if not row.shape.after:
            return ()
        return tuple(name for name in row.shape.after if self.finished.get(name) is not JobState.SUCCEEDED)
