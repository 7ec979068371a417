"""/api/v1/jobs: submit, look, and the verbs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from orchestrator.api import documents, models, render
from orchestrator.api.callers import Caller
from orchestrator.api.intake import admitted, all_admitted
from orchestrator.api.openapi import document_body, items_body
from orchestrator.api.paging import after_of, page_of
from orchestrator.api.parts import (
    Cursor,
    IdempotencyKey,
    JobId,
    Limit,
    NameFilter,
    TheCaller,
    TheService,
    job_for,
    known_names,
)
from orchestrator.api.problem_answers import responses
from orchestrator.api.service import Applied, Service
from orchestrator.ledger.errors import ConflictError
from orchestrator.ledger.job_reads import JobFilter
from orchestrator.ledger.keys import Role
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import ENDED, JobState
from orchestrator.ledger.submission import Accepted, NewJob, Submission, new_holder
from orchestrator.spec.errors import UserError

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])
# No deadline had passed then: what is read as of then is what was written, and nothing else.
_LONG_AGO = dt.datetime.fromtimestamp(0, dt.UTC)
PREFIX_PATTERN = r"^[a-z0-9][a-z0-9.-]{0,79}$"


@router.get("", response_model=models.JobList, responses=responses(404))
async def list_jobs(
    service: TheService,
    caller: TheCaller,
    tenant: NameFilter = None,
    queue: NameFilter = None,
    name: NameFilter = None,
    prefix: Annotated[str | None, Query(pattern=PREFIX_PATTERN, description="How their ids begin.")] = None,
    state: Annotated[
        list[JobState] | None, Query(max_length=len(JobState), description="Repeat it for several.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Jobs in order of id, page by page."""
    if tenant is not None:
        caller.need_tenant(tenant)
    which = JobFilter(
        tenant=tenant or caller.only_tenant,
        queue=queue,
        states=None if state is None else tuple(state),
        name=name,
        prefix=prefix,
        after=after_of(cursor),
        limit=limit + 1,
    )
    rows, sizes = await service.reading(_page, service, which)
    if not rows:
        await known_names(service, queue=queue, tenant=tenant)
    shown, following = page_of(rows, limit, lambda row: row.id)
    return {
        "items": [_rendered(service, row, sizes.get(row.id, 0)) for row in shown],
        "next_cursor": following,
    }


def _rendered(service: Service, row: JobRow, workers_now: int) -> dict[str, Any]:
    newest, reason_at_s = service.reasons.newest(row)
    return render.job(newest, workers_now, service.ledger.heard(row.id), reason_at_s)


def _page(service: Service, which: JobFilter) -> tuple[list[JobRow], dict[str, int]]:
    rows = service.read.jobs(which)
    return rows, service.read.world_sizes([row.id for row in rows if row.state not in ENDED])


@router.post(
    "",
    status_code=201,
    response_model=models.Submitted,
    responses={
        200: {"model": models.Submitted, "description": "Replayed, or an endpoint that was there."},
        **responses(404, 409, 413, 415),
    },
    openapi_extra=document_body("TrainJob", "Endpoint", "Study"),
)
async def submit(request: Request, service: TheService, caller: TheCaller, key: IdempotencyKey = None) -> JSONResponse:
    """Accept a job, an endpoint or a study; when this is answered, it is on the disk. An endpoint that is there gets
    this file and follows it without an interruption; 409 names what cannot change."""
    return await accept_job(request, service, caller, key)


async def accept_job(request: Request, service: Service, caller: Caller, key: str | None) -> JSONResponse:
    """As `submit`, for whoever does without the framework."""
    caller.need(Role.OPERATOR)
    applied = await service.applied()
    try:
        job = await documents.read_holder(request, now=service.now(), tenant=caller.only_tenant)
        caller.need_tenant(job.metadata.tenant)
        new = await admitted(service, applied, job, service.clock())
    except UserError as refused:
        jobs = await _unchecked(request, caller, applied) if key is not None else ()
        accepted = await _answered(service, caller, key, refused, jobs)
    else:
        one = Submission(jobs=(new,), actor=caller.actor, scope=caller.scope, key=key)
        accepted = await service.writer.submit(one)
    answer = {"id": accepted.ids[0], "replayed": accepted.replayed, "revised": bool(accepted.revised)}
    headers = {"location": f"/api/v1/jobs/{accepted.ids[0]}"}
    there_before = accepted.replayed or accepted.revised
    return JSONResponse(answer, status_code=200 if there_before else 201, headers=headers)


async def _unchecked(request: Request, caller: Caller, applied: Applied) -> tuple[NewJob, ...]:
    """The job of a body as it would be entered, whatever time it is; nothing where it is no job at all."""
    try:
        job = await documents.read_holder(request, now=_LONG_AGO, tenant=caller.only_tenant)
        return (new_holder(job, applied.cluster, now_s=0.0),)
    except UserError:
        return ()


async def _answered(
    service: Service, caller: Caller, key: str | None, refused: UserError, jobs: tuple[NewJob, ...]
) -> Accepted:
    """What a key was answered before: jobs that are refused now may have been accepted when it was new.

    Raises: `refused` if they were not; ConflictError if the key came with another body.
    """
    for job in jobs:
        caller.need_tenant(job.tenant)
    again = Submission(jobs=jobs, actor=caller.actor, scope=caller.scope, key=key)
    before = await service.reading(service.read.answered, again) if jobs and key is not None else None
    if before is None:
        raise refused
    return before


@router.post(
    "/batch",
    status_code=201,
    response_model=models.SubmittedBatch,
    responses={200: {"model": models.SubmittedBatch, "description": "Replayed."}, **responses(404, 409, 413, 415)},
    openapi_extra=items_body("TrainJob", documents.MAX_BATCH),
)
async def submit_batch(
    request: Request, service: TheService, caller: TheCaller, key: IdempotencyKey = None
) -> JSONResponse:
    """Accept jobs, all or none, in one transaction."""
    caller.need(Role.OPERATOR)
    applied = await service.applied()
    items = await documents.read_batch(request)
    now, tenant = service.now(), caller.only_tenant
    try:
        new = await service.reading(_all_checked, service, applied, caller, items, now, tenant)
    except UserError as refused:
        jobs = await service.reading(_all_unchecked, applied, items, tenant) if key is not None else ()
        accepted = await _answered(service, caller, key, refused, jobs)
    else:
        accepted = await service.writer.submit(Submission(jobs=new, actor=caller.actor, scope=caller.scope, key=key))
    answer = {"ids": list(accepted.ids), "replayed": accepted.replayed}
    return JSONResponse(answer, status_code=200 if accepted.replayed else 201)


def _all_checked(
    service: Service, applied: Applied, caller: Caller, items: list[Any], now: dt.datetime, tenant: str | None
) -> tuple[NewJob, ...]:
    jobs = documents.parse_items(items, now=now, tenant=tenant)
    for job in jobs:
        caller.need_tenant(job.metadata.tenant)
    return all_admitted(service, applied, jobs, now.timestamp())


def _all_unchecked(applied: Applied, items: list[Any], tenant: str | None) -> tuple[NewJob, ...]:
    try:
        jobs = documents.parse_items(items, now=_LONG_AGO, tenant=tenant)
        return tuple(new_holder(job, applied.cluster, now_s=0.0) for job in jobs)
    except UserError:
        return ()


@router.get("/{job}", response_model=models.JobDetail, responses=responses(404))
async def get_job(job: JobId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Everything about a job."""
    row = await job_for(service, caller, job)
    return await service.reading(_detail, service, row)


def _detail(service: Service, row: JobRow) -> dict[str, Any]:
    read = service.read
    attempts = read.attempts(row.id)
    now = sum(one.world_size for one in attempts[-1:] if one.ended_ms is None)
    return {
        **_rendered(service, row, now),
        "set_aside": render.set_aside(row),
        "serving": service.describe(row.id) if row.shape.kind == "Endpoint" and row.state not in ENDED else None,
        "footprint": render.footprint(service.footprint(row.id)),
        "attempts": [render.attempt(one) for one in attempts],
        "notices": [render.notice(one) for one in read.notices(row.id)],
        "booked": render.booked(entries := read.booked(row.id)),
        "usage": render.usage(entries),
        "stragglers": [] if row.state in ENDED else render.stragglers(read.told(row.id, render.OF_STRAGGLERS)),
        "document": read.document(row.id),
    }


async def _do(
    service: Service, caller: Caller, job: str, ended_as: JobState | None, work: Callable[[str], None]
) -> dict[str, Any]:
    """One of the verbs; on a job that has ended as the verb wanted, nothing is left to do."""
    row = await job_for(service, caller, job, Role.OPERATOR)
    if row.state in ENDED and row.state is not ended_as:
        raise ConflictError(f"job {row.id!r} has ended ({row.state})", next_step=f"See 'tide describe {row.id}'")
    if row.state not in ENDED:
        await service.writer.do(lambda: work(row.id))
    after = await service.reading(service.read.job, row.id)
    sizes = await service.reading(service.read.world_sizes, [row.id])
    return _rendered(service, after, sizes.get(row.id, 0))


_VERB: dict[str, Any] = {"response_model": models.Job, "responses": responses(404, 409)}


@router.post("/{job}/cancel", **_VERB)
async def cancel(job: JobId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """End a job for good; one that runs saves its state first."""
    return await _do(service, caller, job, JobState.CANCELLED, lambda of: service.ledger.cancel(of, actor=caller.actor))


@router.post("/{job}/pause", **_VERB)
async def pause(job: JobId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Save state and give devices back until it is resumed; budget and deadline clocks run on."""
    return await _do(service, caller, job, None, lambda of: service.ledger.pause(of, actor=caller.actor))


@router.post("/{job}/resume", **_VERB)
async def resume(job: JobId, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Let a paused job wait for devices again."""
    return await _do(service, caller, job, None, lambda of: service.ledger.resume(of, actor=caller.actor))


@router.post("/{job}/resize", **_VERB)
async def resize(job: JobId, body: models.ResizeBody, service: TheService, caller: TheCaller) -> dict[str, Any]:
    """Hold a job at a size, or let it follow capacity again."""
    return await _do(service, caller, job, None, lambda of: service.ledger.pin(of, body.workers, actor=caller.actor))
