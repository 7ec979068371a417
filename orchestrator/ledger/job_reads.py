"""Reads for people: jobs, their attempts, what their owners wrote, and how many wait for what."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from orchestrator.ledger import forms, submission, tables
from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.experience import Experience, experience_of, same_work
from orchestrator.ledger.queries import Queries, page_of
from orchestrator.ledger.rows import AttemptRow, JobRow, ScheduleRow
from orchestrator.ledger.states import ENDED, WAITING, JobState
from orchestrator.policy.queueing.decisions import WaitReason


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


class JobReads(Queries):
    """Jobs."""

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
        return self._rows(forms.JOBS, page_of(forms.JOBS, where, table.id, which.limit))

    def job(self, job_id: str) -> JobRow:
        """One job, ended or not. Raises: UnknownJobError."""
        one = page_of(forms.JOBS, [tables.jobs.c.id == job_id], tables.jobs.c.id, 1)
        rows: list[JobRow] = self._rows(forms.JOBS, one)
        if not rows:
            raise UnknownJobError(job_id)
        return rows[0]

    def latest(self, name: str) -> JobRow:
        """The latest run of a name. Raises: UnknownJobError."""
        table = tables.jobs.c
        rows: list[JobRow] = self._rows(forms.JOBS, page_of(forms.JOBS, [table.name == name], table.run.desc(), 1))
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

    def open_documents(self, *, holding: str) -> list[str]:
        """What owners of jobs that are not over, and of schedules, wrote, where it holds this text anywhere."""
        documents, jobs, schedules = tables.documents.c, tables.jobs.c, tables.schedules.c
        ended = [state.value for state in ENDED]
        open_jobs = (
            select(documents.document)
            .join(tables.jobs, jobs.id == documents.job)
            .where(jobs.state.not_in(ended), documents.document.contains(holding, autoescape=True))
        )
        with self._database.reading() as connection:
            found = connection.execute(open_jobs).scalars().all()
            by_clock = connection.execute(
                select(schedules.document).where(schedules.document.contains(holding, autoescape=True))
            )
            return [*found, *by_clock.scalars().all()]

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """A job's attempts, oldest first."""
        table = tables.attempts.c
        return self._rows(forms.ATTEMPTS, page_of(forms.ATTEMPTS, [table.job == job_id], table.attempt, 10_000))

    def ended_attempts(self, jobs: Collection[str]) -> list[AttemptRow]:
        """Attempts of these jobs that have ended."""
        table = tables.attempts.c
        where = [table.job.in_(sorted(jobs)), table.ended_ms.is_not(None)]
        return self._rows(forms.ATTEMPTS, page_of(forms.ATTEMPTS, where, table.attempt, 100_000))

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
            rows += self._rows(forms.JOBS, page_of(forms.JOBS, where, table.run.desc(), 10_000))
        return rows

    def submitted(self, jobs: Sequence[str]) -> dict[str, int]:
        """When these jobs were submitted (UTC milliseconds)."""
        table = tables.jobs.c
        query = select(table.id, table.submitted_ms).where(table.id.in_(jobs))
        with self._database.reading() as connection:
            return {row.id: row.submitted_ms for row in connection.execute(query)}

    def schedules(
        self, *, tenant: str | None = None, after: str | None = None, limit: int = 10_000
    ) -> list[ScheduleRow]:
        """Jobs that start by a clock, by name; some of their instances may have ended. `after` is the name of the last
        one of the page before."""
        table, where = tables.schedules.c, []
        if tenant is not None:
            where.append(table.tenant == tenant)
        if after is not None:
            where.append(table.name > after)
        return self._rows(forms.SCHEDULES, page_of(forms.SCHEDULES, where, table.name, limit))

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
