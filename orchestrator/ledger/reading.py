"""Reads for people: on connections of their own, so that they never wait for a writer; also where nobody leads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select

from orchestrator.ledger import forms, notices, submission, tables
from orchestrator.ledger.clusters import load_cluster, load_holds
from orchestrator.ledger.database import Database
from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.experience import Experience, experience_of, same_work
from orchestrator.ledger.keys import KeyRow, Role, matches, split
from orchestrator.ledger.leader import Leader, read_leader
from orchestrator.ledger.node_holds import Holds, load_node_holds
from orchestrator.ledger.notes import KINDS as NOTE_KINDS
from orchestrator.ledger.notes import LOOKED_BACK
from orchestrator.ledger.rows import AttemptRow, JobRow, LeaseRow, MeterRow, NoticeRow, ScheduleRow
from orchestrator.ledger.shelf import Form
from orchestrator.ledger.states import ENDED, WAITING, JobState, Unit
from orchestrator.policy.queueing.decisions import WaitReason
from orchestrator.spec import Cluster

_KEYS = Form(tables.api_keys, KeyRow, ("id",), read={"role": Role})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs; None = any. `after` is the id of the last one of the page before, `prefix` how ids begin."""

    tenant: str | None = None
    queue: str | None = None
    states: tuple[JobState, ...] | None = None
    name: str | None = None
    prefix: str | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """What a tenant's jobs were booked for."""

    tenant: str
    jobs: int
    micro_usd: int
    device_ms: int


_EVENTS = Form(tables.events, Event, ("seq",), read={"data": json.loads})
_DECISIONS = Form(tables.decisions, DecisionRow, ("seq",))


class Reader:
    """Answers about what is committed. Raises everywhere: UnreachableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, which: JobFilter = JobFilter()) -> list[JobRow]:
        """Jobs in order of id, one page."""
        table, where = tables.jobs.c, []
        for column, wanted in ((table.tenant, which.tenant), (table.queue, which.queue), (table.name, which.name)):
            if wanted is not None:
                where.append(column == wanted)
        if which.states is not None:
            where.append(table.state.in_([state.value for state in which.states]))
        if which.after is not None:
            where.append(table.id > which.after)
        if which.prefix is not None:
            where.append(table.id.startswith(which.prefix, autoescape=True))
        return self._rows(forms.JOBS, _page(forms.JOBS, where, table.id, which.limit))

    def job(self, job_id: str) -> JobRow:
        """One job, ended or not. Raises: UnknownJobError."""
        one = _page(forms.JOBS, [tables.jobs.c.id == job_id], tables.jobs.c.id, 1)
        rows: list[JobRow] = self._rows(forms.JOBS, one)
        if not rows:
            raise UnknownJobError(job_id)
        return rows[0]

    def latest(self, name: str) -> JobRow:
        """The latest run of a name. Raises: UnknownJobError."""
        table = tables.jobs.c
        rows: list[JobRow] = self._rows(forms.JOBS, _page(forms.JOBS, [table.name == name], table.run.desc(), 1))
        if not rows:
            raise UnknownJobError(name)
        return rows[0]

    def world_sizes(self, job_ids: Sequence[str]) -> dict[str, int]:
        """Workers of jobs that have an open attempt: those of the latest."""
        table = tables.attempts.c
        found: dict[str, int] = {}
        with self._database.reading() as connection:
            for start in range(0, len(job_ids), 500):
                query = select(table.job, table.world_size).order_by(table.attempt)
                query = query.where(table.job.in_(job_ids[start : start + 500]), table.ended_ms.is_(None))
                found |= {row.job: row.world_size for row in connection.execute(query)}
        return found

    def answered(self, one: submission.Submission) -> submission.Accepted | None:
        """What was answered to the key of a submission before. Raises: ConflictError if its body was another."""
        with self._database.reading() as connection:
            return submission.replayed(one, submission.answers(connection, [one]))

    def document(self, job_id: str) -> dict[str, Any]:
        """What the job's owner wrote. Raises: UnknownJobError."""
        with self._database.reading() as connection:
            query = select(tables.documents.c.document).where(tables.documents.c.job == job_id)
            text = connection.execute(query).scalar()
        if text is None:
            raise UnknownJobError(job_id)
        document: dict[str, Any] = json.loads(text)
        return document

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """A job's attempts, oldest first."""
        table = tables.attempts.c
        return self._rows(forms.ATTEMPTS, _page(forms.ATTEMPTS, [table.job == job_id], table.attempt, 10_000))

    def experience(self, names: Mapping[str, Mapping[str, Any]]) -> dict[str, Experience]:
        """What is known of jobs before they run, from the newest run of each name that was their tenant's, did the
        same work and got anywhere; `names` are documents by name. Names of which nothing is known are not in it."""
        found: dict[str, Experience] = {}
        for row in self._experienced(sorted(names)):
            if row.name in found or row.tenant != names[row.name]["metadata"].get("tenant", row.tenant):
                continue
            if same_work(document := self.document(row.id), names[row.name]):
                known = experience_of(row, self.attempts(row.id), document)
                found |= {} if known is None else {row.name: known}
        return found

    def _experienced(self, names: Sequence[str]) -> list[JobRow]:
        table, rows = tables.jobs.c, list[JobRow]()
        for start in range(0, len(names), 500):
            where = [table.name.in_(names[start : start + 500]), table.steps_done > 0]
            rows += self._rows(forms.JOBS, _page(forms.JOBS, where, table.run.desc(), 10_000))
        return rows

    def notices(self, job_id: str) -> list[NoticeRow]:
        """Who is told of a job's end, and what became of it."""
        table = tables.notices.c
        return self._rows(forms.NOTICES, _page(forms.NOTICES, [table.job == job_id], table.id, 1000))

    def due_notices(self, *, now_s: float, most_each: int) -> list[NoticeRow]:
        """Messages whose next try has come, so many of each address."""
        with self._database.reading() as connection:
            return notices.due(connection, round(now_s * 1000), most_each)

    def schedules(self) -> list[ScheduleRow]:
        """Jobs that start by a clock, by name; some of their instances may have ended."""
        return self._rows(forms.SCHEDULES, _page(forms.SCHEDULES, [], tables.schedules.c.name, 10_000))

    def leases(self, *, pool: str | None = None) -> list[LeaseRow]:
        """Who holds what now."""
        where = [] if pool is None else [tables.leases.c.pool == pool]
        return self._rows(forms.LEASES, _page(forms.LEASES, where, tables.leases.c.id, 1_000_000))

    def meters(self) -> list[MeterRow]:
        """Pools, with what they have and what of it is leased."""
        return self._rows(forms.METERS, _page(forms.METERS, [], tables.meters.c.pool, 10_000))

    def events(
        self, *, after: int = 0, job: str | None = None, tenant: str | None = None, limit: int = 1000
    ) -> list[Event]:
        """Events after a number, oldest first."""
        table = tables.events.c
        where = [table.seq > after]
        where += [] if job is None else [table.job == job]
        where += [] if tenant is None else [table.tenant == tenant]
        return self._rows(_EVENTS, _page(_EVENTS, where, table.seq, limit))

    def first_event(self) -> int:
        """The number of the oldest event that is still kept; 0 if there is none. Older ones were purged."""
        return self._scalar(select(func.min(tables.events.c.seq))) or 0

    def last_event(self) -> int:
        """The number of the newest event; 0 if there is none."""
        return self._scalar(select(func.max(tables.events.c.seq))) or 0

    def decisions(self, *, after: int = 0, limit: int = 100) -> list[DecisionRow]:
        """Decisions after a number, oldest first."""
        table = tables.decisions.c
        return self._rows(_DECISIONS, _page(_DECISIONS, [table.seq > after], table.seq, limit))

    def counts(self) -> dict[tuple[str, str | None], int]:
        """Live jobs by state and reason to wait."""
        table = tables.jobs.c
        query = select(table.state, table.reason, func.count()).group_by(table.state, table.reason)
        with self._database.reading() as connection:
            return {(state, reason): number for state, reason, number in connection.execute(query)}

    def queue_counts(self, tenant: str | None = None) -> dict[tuple[str, str, str | None], int]:
        """Live jobs by queue, state and reason to wait; of one tenant, or all."""
        table = tables.jobs.c
        keys = (table.queue, table.state, table.reason)
        query = select(*keys, func.count()).where(table.state.not_in(sorted(ENDED))).group_by(*keys)
        query = query if tenant is None else query.where(table.tenant == tenant)
        with self._database.reading() as connection:
            return {(queue, state, reason): number for queue, state, reason, number in connection.execute(query)}

    def waiting(self) -> dict[tuple[str, str], int]:
        """Jobs that wait, by queue and reason."""
        table = tables.jobs.c
        where = table.state.in_(sorted(state.value for state in WAITING))
        query = select(table.queue, table.reason, table.state, func.count()).where(where)
        found: dict[tuple[str, str], int] = {}
        with self._database.reading() as connection:
            for queue, reason, state, number in connection.execute(
                query.group_by(table.queue, table.reason, table.state)
            ):
                word = WaitReason.DEACTIVATED if state == JobState.PAUSED else reason or WaitReason.PENDING_EVALUATION
                found[queue, str(word)] = found.get((queue, str(word)), 0) + number
        return found

    def submitted(self, jobs: Sequence[str]) -> dict[str, int]:
        """When these jobs were submitted (UTC milliseconds)."""
        table = tables.jobs.c
        query = select(table.id, table.submitted_ms).where(table.id.in_(jobs))
        with self._database.reading() as connection:
            return {row.id: row.submitted_ms for row in connection.execute(query)}

    def ended_attempts(self, jobs: Collection[str]) -> list[AttemptRow]:
        """Attempts of these jobs that have ended."""
        table = tables.attempts.c
        where = [table.job.in_(sorted(jobs)), table.ended_ms.is_not(None)]
        return self._rows(forms.ATTEMPTS, _page(forms.ATTEMPTS, where, table.attempt, 100_000))

    def notes(self, job_id: str) -> set[str]:
        """Ids of the last notes of a job that are in the books."""
        return {event.data["note"] for event in self.told(job_id, NOTE_KINDS)}

    def told(self, job_id: str, kinds: Collection[str]) -> list[Event]:
        """The last events of these kinds of a job, oldest first."""
        table = tables.events.c
        where = [table.kind.in_(sorted(kinds)), table.job == job_id]
        return self._rows(_EVENTS, _page(_EVENTS, where, table.seq.desc(), LOOKED_BACK))[::-1]

    def events_of(self, kinds: Collection[str], *, after: int, until: int) -> list[Event]:
        """All events of these kinds with numbers above `after` and up to `until`, oldest first."""
        table = tables.events.c
        where = [table.seq > after, table.seq <= until, table.kind.in_(sorted(kinds))]
        return self._rows(_EVENTS, _page(_EVENTS, where, table.seq, 1_000_000))

    def balances(self, unit: Unit) -> dict[str, int]:
        """All accounts of a unit."""
        table = tables.accounts.c
        with self._database.reading() as connection:
            rows = connection.execute(select(table.name, table.balance).where(table.unit == unit.value))
            return {row.name: row.balance for row in rows}

    def usage(self, job_id: str) -> dict[str, int]:
        """What a job was booked for: device-milliseconds by kind, and micro-dollars."""
        table = tables.entries.c
        query = select(table.account, func.sum(table.amount)).where(table.job == job_id, table.amount > 0)
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(table.account)).all()
        found: dict[str, int] = {}
        for account, amount in rows:
            kind = account.partition(":")[0]
            found[kind] = found.get(kind, 0) + int(amount)
        return found

    def generation(self) -> int:
        """The number of the Cluster that holds; 0 if none was applied yet."""
        return self._scalar(select(func.max(tables.clusters.c.generation))) or 0

    def cluster(self) -> tuple[int, Cluster] | None:
        """The Cluster that holds, with its generation."""
        with self._database.reading() as connection:
            return load_cluster(connection)

    def holds(self) -> set[str]:
        """Queues that are on hold."""
        with self._database.reading() as connection:
            return load_holds(connection)

    def node_holds(self) -> Holds:
        """Nodes that are held back."""
        with self._database.reading() as connection:
            return load_node_holds(connection)

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

    def tenant_usage(self) -> list[TenantUsage]:
        """What each tenant's jobs were booked for so far, ended ones included; what is still open is not in it."""
        table = tables.jobs.c
        money, time = func.sum(table.spent_micro_usd), func.sum(table.spent_device_ms)
        query = select(table.tenant, func.count(), money, time).group_by(table.tenant).order_by(table.tenant)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            TenantUsage(tenant=tenant, jobs=jobs, micro_usd=int(usd), device_ms=int(ms))
            for tenant, jobs, usd, ms in rows
        ]

    def api_keys(self) -> list[KeyRow]:
        """All keys, without their secrets."""
        return self._rows(_KEYS, _page(_KEYS, [], tables.api_keys.c.id, 100_000))

    def authenticate(self, text: str, *, now_s: float) -> KeyRow | None:
        """The key that a text is; None if it is none, or holds no more."""
        parts = split(text)
        if parts is None:
            return None
        rows = self._rows(_KEYS, _page(_KEYS, [tables.api_keys.c.id == parts[0]], tables.api_keys.c.id, 1))
        return rows[0] if rows and matches(rows[0], parts[1], now_s=now_s) else None

    def leader(self) -> Leader:
        """Who leads, and when it was last heard of."""
        with self._database.reading() as connection:
            return read_leader(connection)

    def _rows(self, form: Form[Any], query: Select[Any]) -> list[Any]:
        with self._database.reading() as connection:
            return [form.of(dict(row)) for row in connection.execute(query).mappings()]

    def _scalar(self, query: Select[Any]) -> Any:
        with self._database.reading() as connection:
            return connection.execute(query).scalar()


def _page(form: Form[Any], where: Sequence[Any], order: Any, limit: int) -> Select[Any]:
    columns = [form.table.c[name] for name in form.names]
    return select(*columns).where(*where).order_by(order).limit(limit)
