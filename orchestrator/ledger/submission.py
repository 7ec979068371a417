"""New jobs: what is accepted, under which id, and once for each idempotency key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from sqlalchemy import Connection, bindparam, func, insert, select

from orchestrator.ledger import fast, revising, schedules, tables
from orchestrator.ledger.change import SYSTEM, Change
from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.experience import Experience
from orchestrator.ledger.rows import JobRow, JobShape
from orchestrator.ledger.shelf import dumps
from orchestrator.ledger.states import ENDED, JobState
from orchestrator.policy.queueing.from_spec import Progress, job_of, replicas_of, search_of
from orchestrator.policy.queueing.values import Job
from orchestrator.spec import Cluster, Endpoint, Study, TrainJob

Holder = TrainJob | Endpoint | Study
"""What can be submitted: kinds whose holders have leases."""
# A process that dies is started again; one that dies so often will not live.
_ENDPOINT_FAILURES = 1000
_LATEST = select(func.max(tables.jobs.c.run)).where(tables.jobs.c.name == bindparam("of_name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be accepted. `document` is what its owner wrote, as JSON; `paused` ones wait until they are resumed;
    `scheduled` ones never run themselves: the clock starts jobs of their kind."""

    name: str
    shape: JobShape
    tenant: str = "default"
    queue: str = "default"
    priority: int = 50
    document: str = "{}"
    paused: bool = False
    scheduled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Jobs that are accepted together or not at all. The same `key` in one `scope` (an API key's id) is answered once.

    `actor` is who asked.
    """

    jobs: tuple[NewJob, ...]
    actor: str = SYSTEM
    scope: str = ""
    key: str | None = None

    @property
    def body_hash(self) -> str:
        """Tells whether a key comes again with the same body."""
        text = dumps([[job.name, job.tenant, job.queue, job.priority, job.document] for job in self.jobs])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The ids of accepted jobs, in order; `replayed` if the key was answered before; `revised`: endpoints that were
    there and have another file from now on."""

    ids: tuple[str, ...]
    replayed: bool = False
    revised: tuple[str, ...] = ()


def new_job(job: TrainJob, cluster: Cluster, *, now_s: float, paused: bool = False) -> NewJob:
    """A TrainJob as the ledger takes it, while nothing is known of what its steps cost."""
    value = job_of(job, cluster, Progress(submitted_s=now_s, stay_s=_least_night_s(job, cluster)))
    retries = job.spec.retries
    shape = JobShape(
        sizes=value.sizes,
        resource=value.resource,
        devices_per_worker=value.devices_per_worker,
        coupling=value.coupling,
        window=value.window,
        min_slice_s=value.min_slice_s,
        deadline_s=value.deadline_s,
        steps=job.spec.steps,
        budget_micro_usd=value.spending.micro_usd,
        budget_device_ms=value.spending.device_ms,
        after=job.spec.after,
        max_failures=retries.failures,
        max_preemptions=retries.preemptions,
    )
    return replace(_entry(job, value, shape), paused=paused, scheduled=job.spec.schedule is not None)


def _least_night_s(job: TrainJob, cluster: Cluster) -> float:
    """The shortest stretch of its window that is worth a start, as the Cluster says of all that it lends."""
    lending = cluster.spec.lending
    return lending.min_slice if job.spec.window is not None and lending is not None else 0.0


def experienced(new: NewJob, known: Experience | None) -> NewJob:
    """The same job with its work estimated from an earlier run's steps."""
    if known is None or new.shape.steps is None:
        return new
    return replace(new, shape=replace(new.shape, work_s=new.shape.steps * known.step_worker_s))


def new_endpoint(endpoint: Endpoint, cluster: Cluster, *, now_s: float) -> NewJob:
    """An Endpoint as the ledger takes it. What it serves with is started again as often as it fails."""
    value = replicas_of(endpoint, cluster, submitted_s=now_s)
    shape = JobShape(
        kind="Endpoint",
        sizes=value.sizes,
        resource=value.resource,
        devices_per_worker=value.devices_per_worker,
        coupling=value.coupling,
        max_failures=_ENDPOINT_FAILURES,
    )
    return _entry(endpoint, value, shape)


def new_study(study: Study, cluster: Cluster, *, now_s: float) -> NewJob:
    """A Study as the ledger takes it."""
    value = search_of(study, cluster, Progress(submitted_s=now_s))
    retries = study.spec.template.retries
    shape = JobShape(
        kind="Study",
        sizes=value.sizes,
        resource=value.resource,
        devices_per_worker=value.devices_per_worker,
        coupling=value.coupling,
        window=value.window,
        deadline_s=value.deadline_s,
        budget_micro_usd=value.spending.micro_usd,
        budget_device_ms=value.spending.device_ms,
        max_failures=retries.failures,
        max_preemptions=retries.preemptions,
    )
    return _entry(study, value, shape)


def _entry(spec: Holder, value: Job, shape: JobShape) -> NewJob:
    return NewJob(
        name=spec.metadata.name,
        tenant=value.tenant,
        queue=value.queue,
        priority=value.priority,
        shape=shape,
        document=json.dumps(spec.to_document(), separators=(",", ":"), default=str),
    )


def new_holder(spec: Holder, cluster: Cluster, *, now_s: float) -> NewJob:
    """Whatever can be submitted, as the ledger takes it."""
    match spec:
        case TrainJob():
            return new_job(spec, cluster, now_s=now_s)
        case Endpoint():
            return new_endpoint(spec, cluster, now_s=now_s)
        case Study():
            return new_study(spec, cluster, now_s=now_s)
        case _:
            assert_never(spec)


def answers(connection: Connection, submissions: Iterable[Submission]) -> dict[tuple[str, str], tuple[str, str]]:
    """What was answered before, by scope and key: the hash of the body and the answer."""
    keys = {one.key for one in submissions if one.key is not None}
    if not keys:
        return {}
    table = tables.idempotency.c
    query = select(table.scope, table.key, table.body_hash, table.answer).where(table.key.in_(sorted(keys)))
    return {(row.scope, row.key): (row.body_hash, row.answer) for row in connection.execute(query)}


def latest_runs(connection: Connection, submissions: Iterable[Submission]) -> dict[str, int]:
    """The highest run of each name that is submitted; names that are new are not in it."""
    names = sorted({job.name for one in submissions for job in one.jobs})
    if len(names) == 1:
        run = fast.run(connection, _LATEST, [{"of_name": names[0]}]).scalar()
        return {} if run is None else {names[0]: run}
    found: dict[str, int] = {}
    table = tables.jobs.c
    for start in range(0, len(names), 500):
        query = select(table.name, func.max(table.run)).where(table.name.in_(names[start : start + 500]))
        found |= {row.name: row[1] for row in connection.execute(query.group_by(table.name))}
    return found


def replayed(submission: Submission, known: dict[tuple[str, str], tuple[str, str]]) -> Accepted | None:
    """The answer that a key was given before; None for a new one. Raises: ConflictError if the body is another."""
    before = None if submission.key is None else known.get((submission.scope, submission.key))
    if before is None:
        return None
    if before[0] != submission.body_hash:
        problem = f"idempotency key {submission.key!r} was used with another body"
        raise ConflictError(problem, next_step="Use a new key for a new request")
    return Accepted(ids=tuple(json.loads(before[1])), replayed=True)


def running_documents(
    connection: Connection, submissions: Iterable[Submission], runs: Mapping[str, int]
) -> dict[str, str]:
    """What owners wrote of the endpoints that are submitted again, by id."""
    names = {job.name for one in submissions for job in one.jobs if job.shape.kind == "Endpoint"}
    ids = sorted(job_id(name, runs[name]) for name in names & runs.keys())
    if not ids:
        return {}
    table = tables.documents.c
    query = select(table.job, table.document).where(table.job.in_(ids))
    return {row.job: row.document for row in connection.execute(query)}


def enter(
    change: Change, submission: Submission, runs: dict[str, int], documents: dict[str, str] | None = None
) -> Accepted:
    """Add the jobs; `runs` is kept up to date. An endpoint that is there, and of which `documents` has what holds, gets
    another file; that is kept up to date, too. Raises: ConflictError, with nothing added."""
    known = {} if documents is None else documents
    revised = _check(change, submission.jobs, runs, known)
    change.actor = submission.actor
    ids = tuple(
        revising.revise(change, revised[job.name], job, known)
        if job.name in revised
        else _accept(change, submission, job, runs)
        for job in submission.jobs
    )
    accepted = Accepted(ids=ids, revised=tuple(row.id for row in revised.values()))
    if submission.key is not None:
        answer = {
            "scope": submission.scope,
            "key": submission.key,
            "body_hash": submission.body_hash,
            "answer": dumps(accepted.ids),
            "at_ms": change.now_ms,
        }
        change.others.append((insert(tables.idempotency), [answer]))
    return accepted


def _accept(change: Change, submission: Submission, job: NewJob, runs: dict[str, int]) -> str:
    if job.scheduled:
        schedules.add(change, job.name, job.tenant, submission.actor, job.document)
        return job.name
    row = _row(change, submission, job, runs)
    change.jobs.put(row)
    change.event("submitted", row)
    change.documents.append({"job": row.id, "document": job.document})
    return row.id


def _check(
    change: Change, jobs: Sequence[NewJob], runs: dict[str, int], documents: Mapping[str, str]
) -> dict[str, JobRow]:
    """The endpoints that are there, by name. Raises: ConflictError."""
    names: set[str] = set()
    revised: dict[str, JobRow] = {}
    for job in jobs:
        alive = change.jobs.get(job_id(job.name, runs.get(job.name, 0)))
        live = alive is not None and alive.state not in ENDED
        if change.schedules.get(job.name) is not None:
            problem = f"job {job.name!r} starts by a schedule; a name belongs to one job at a time"
            raise ConflictError(problem, next_step=f"Choose another name, or run 'tide cancel {job.name}' first")
        if live and alive is not None and alive.id in documents and job.name not in names:
            revising.check(alive, job, documents[alive.id])
            revised[job.name] = alive
        elif live or job.name in names:
            what = f"is {alive.state}" if alive is not None and live else "stands in the request twice"
            problem = f"job {job.name!r} {what}; a name belongs to one job at a time"
            raise ConflictError(problem, next_step=f"Choose another name, or run 'tide cancel {job.name}' first")
        names.add(job.name)
    return revised


def _row(change: Change, submission: Submission, job: NewJob, runs: dict[str, int]) -> JobRow:
    run = runs[job.name] = runs.get(job.name, 0) + 1
    return JobRow(
        id=job_id(job.name, run),
        name=job.name,
        run=run,
        tenant=job.tenant,
        queue=job.queue,
        priority=job.priority,
        state=JobState.PAUSED if job.paused else JobState.SUBMITTED,
        submitted_ms=change.now_ms,
        changed_ms=change.now_ms,
        submitted_by=submission.actor,
        shape=job.shape,
        work_left_s=job.shape.work_s,
    )


def job_id(name: str, run: int) -> str:
    """The id of a name's runs: the name itself, then NAME.2, NAME.3 (no name has a dot)."""
    return name if run <= 1 else f"{name}.{run}"
