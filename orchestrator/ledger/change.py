"""One change of state: drafts of rows, events, entries and orders that are committed together or not at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, insert, literal_column, update

from orchestrator.ledger import faults, tables
from orchestrator.ledger.errors import FencedError
from orchestrator.ledger.fast import changed, run
from orchestrator.ledger.mirror import Mirror
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
from orchestrator.ledger.shelf import Draft, dumps
from orchestrator.ledger.states import Unit

SYSTEM = "system"
"""Who acts when no person asked for it."""

_ENTRIES, _EVENTS, _DOCUMENTS = insert(tables.entries), insert(tables.events), insert(tables.documents)
_OF_WORK = ("jobs", "attempts", "leases", "meters", "orders")
_OF_PARTIES = ("recents", "claims", "promises", "tempos", "schedules")
_REASONS = (
    update(tables.jobs)
    .values(reason=bindparam("new_reason"), detail=bindparam("new_detail"), eta_ms=bindparam("new_eta_ms"))
    .where(tables.jobs.c.id == bindparam("was_id"), tables.jobs.c.version == bindparam("was_version"))
)
_FENCE = (
    update(tables.leader)
    .values(clock_ms=bindparam("now_ms"))
    .where(tables.leader.c.id == literal_column("1"), tables.leader.c.token == bindparam("our_token"))
)


@dataclass(slots=True)
class Change:
    """A change in the making, at `now_ms`; `kind` names its fault points. `token` proves that we lead."""

    mirror: Mirror
    now_ms: int
    token: int
    kind: str
    actor: str = SYSTEM
    jobs: Draft[JobRow] = field(init=False)
    attempts: Draft[AttemptRow] = field(init=False)
    leases: Draft[LeaseRow] = field(init=False)
    meters: Draft[MeterRow] = field(init=False)
    orders: Draft[OrderRow] = field(init=False)
    recents: Draft[RecentRow] = field(init=False)
    claims: Draft[ClaimRow] = field(init=False)
    promises: Draft[PromiseRow] = field(init=False)
    tempos: Draft[TempoRow] = field(init=False)
    schedules: Draft[ScheduleRow] = field(init=False)
    reasons: list[JobRow] = field(default_factory=list)
    balances: dict[tuple[str, Unit], int] = field(default_factory=lambda: defaultdict(int))
    entries: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    others: list[tuple[Any, list[dict[str, Any]]]] = field(default_factory=list)
    _lease_ids: int = 0

    def __post_init__(self) -> None:
        for name in (*_OF_WORK, *_OF_PARTIES):
            setattr(self, name, getattr(self.mirror, name).draft())

    def event(self, kind: str, job: JobRow | None = None, **data: object) -> None:
        """Say what happened."""
        if job is None:
            self._event(kind, None, None, None, data)
        else:
            self._event(kind, job.id, job.attempt, job.tenant, data)

    def event_of(self, kind: str, job_id: str, tenant: str, **data: object) -> None:
        """Say what happened around a job that may have ended long ago."""
        self._event(kind, job_id, None, tenant, data)

    def _event(
        self, kind: str, job: str | None, attempt: int | None, tenant: str | None, data: dict[str, object]
    ) -> None:
        self.events.append(
            {
                "at_ms": self.now_ms,
                "kind": kind,
                "job": job,
                "attempt": attempt,
                "tenant": tenant,
                "actor": self.actor,
                "data": dumps(data) if data else "{}",
            }
        )

    def waits(self, job: JobRow, reason: str, detail: str, eta_ms: int | None) -> None:
        """Say why a job waits, in a change that does nothing else to it. Its state is what it was, and its version."""
        assert job.id not in self.jobs.changes, f"{job.id} is changed and waits for something in one change"
        self.reasons.append(changed(job, reason=reason, detail=detail, eta_ms=eta_ms))

    def transfer(
        self, amount: int, unit: Unit, source: str, target: str, *, job: str | None = None, attempt: int | None = None
    ) -> None:
        """Move an amount from one account to another: two entries whose sum is zero; nothing for an amount of 0."""
        if amount:
            self._entry(source, unit, -amount, job, attempt)
            self._entry(target, unit, amount, job, attempt)

    def _entry(self, account: str, unit: Unit, amount: int, job: str | None, attempt: int | None) -> None:
        self.balances[account, unit] += amount
        self.entries.append(
            {
                "at_ms": self.now_ms,
                "account": account,
                "unit": unit.value,
                "amount": amount,
                "job": job,
                "attempt": attempt,
            }
        )

    def balance(self, account: str, unit: Unit) -> int:
        """An account's balance as it would be after the change."""
        row = self.mirror.accounts.rows.get((account, unit))
        return (row.balance if row else 0) + self.balances.get((account, unit), 0)

    def new_lease_id(self) -> int:
        """The number of the next lease."""
        self._lease_ids += 1
        return self.mirror.next_lease + self._lease_ids - 1

    def leases_of(self, holder: str) -> list[LeaseRow]:
        """A holder's leases as they would be after the change, in order of id."""
        return self.leases.of(holder)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (
            self.events
            or self.entries
            or self.documents
            or self.others
            or self.reasons
            or any(draft.changes for draft in self._drafts())
        )

    def write(self, connection: Connection) -> None:
        """Send everything, the fence first. Raises: FencedError."""
        hold_fence(connection, self.token, self.now_ms)
        for draft in self._drafts():
            draft.write(connection)
        self._accounts().write(connection)
        if self.reasons:
            self._write_reasons(connection)
        if self.entries:
            run(connection, _ENTRIES, self.entries)
        if self.events:
            run(connection, _EVENTS, self.events)
        if self.documents:
            run(connection, _DOCUMENTS, self.documents)
        for statement, values in self.others:
            connection.execute(statement, values)
        faults.point(f"{self.kind}:before-commit")

    def _write_reasons(self, connection: Connection) -> None:
        values = [
            {
                "new_reason": row.reason,
                "new_detail": row.detail,
                "new_eta_ms": row.eta_ms,
                "was_id": row.id,
                "was_version": row.version,
            }
            for row in self.reasons
        ]
        found = run(connection, _REASONS, values).rowcount
        if found != len(values):
            raise FencedError(f"{len(values) - found} waiting jobs were changed by another")

    def settle(self) -> None:
        """It is committed: what is in memory follows."""
        faults.point(f"{self.kind}:after-commit")
        mirror = self.mirror
        mirror.clock_ms = self.now_ms
        self._accounts().settle()
        for draft in self._drafts():
            draft.settle()
        mirror.next_lease = max(mirror.next_lease, *(row.id + 1 for row in self.leases.changes.values() if row), 0)
        for key, attempt in self.attempts.changes.items():
            if attempt is not None and attempt.ended_ms is not None:
                mirror.attempts.rows.pop(key, None)
        mirror.note_reasons(self.reasons)
        mirror.note_jobs([row for row in self.jobs.changes.values() if row is not None])

    def _drafts(self) -> tuple[Draft[Any], ...]:
        parties = (self.recents, self.claims, self.promises, self.tempos, self.schedules)
        return (self.jobs, self.attempts, self.leases, self.meters, self.orders, *parties)

    def _accounts(self) -> Draft[AccountRow]:
        draft = self.mirror.accounts.draft()
        for (name, unit), amount in self.balances.items():
            before = self.mirror.accounts.rows.get((name, unit))
            draft.put(AccountRow(name=name, unit=unit, balance=amount + (before.balance if before else 0)))
        return draft


def hold_fence(connection: Connection, token: int, now_ms: int) -> None:
    """Prove in this transaction that we still lead, and keep anybody from taking over before it ends.

    Raises: FencedError.
    """
    if run(connection, _FENCE, [{"now_ms": now_ms, "our_token": token}]).rowcount != 1:
        raise FencedError(f"token {token} is no longer the leader's")
