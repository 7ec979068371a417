"""/api/v1/plan and .../why: what the next control cycle would do, by the function that the cycle calls itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, assert_never

from fastapi import APIRouter, Query, Request

from orchestrator.api import documents, models, render, render_decisions
from orchestrator.api.intake import admitted
from orchestrator.api.openapi import document_body
from orchestrator.api.parts import JobId, TheCaller, TheService, job_for
from orchestrator.api.problem_answers import responses
from orchestrator.api.problems import ApiError, ProblemCode
from orchestrator.api.service import Service
from orchestrator.cycle import decide
from orchestrator.ledger.errors import UnknownJobError
from orchestrator.ledger.keys import Role
from orchestrator.ledger.rows import JobRow
from orchestrator.ledger.states import JobState
from orchestrator.ledger.submission import Holder, NewJob
from orchestrator.policy.queueing.edits import Edit, MoveToQueue, SetCoupling, SetMinWorkers, SetPriority, SetWindow
from orchestrator.policy.queueing.from_spec import Progress, job_of, replicas_of, search_of
from orchestrator.policy.queueing.values import Coupling, Job, Snapshot
from orchestrator.policy.queueing.why import edited
from orchestrator.policy.queueing.why import why as explain
from orchestrator.spec import Cluster, Endpoint, Study, TrainJob
from orchestrator.spec.errors import ExitCode

router = APIRouter(prefix="/api/v1", tags=["decisions"])
_EDITS = "workers.min, priority, coupling, window, queue"


@router.get("/plan", response_model=models.Plan, responses=responses())
async def get_plan(service: TheService, caller: TheCaller) -> models.Plan:
    """What the next cycle would do as things are."""
    return await service.deciding(lambda: _plan(service.snapshot(), None, caller.only_tenant))


@router.post(
    "/plan",
    response_model=models.Plan,
    responses=responses(404, 413, 415),
    openapi_extra=document_body("TrainJob", "Endpoint", "Study"),
)
async def try_plan(request: Request, service: TheService, caller: TheCaller) -> models.Plan:
    """What the next cycle would do if this job were submitted now; it is not."""
    caller.need(Role.OPERATOR)
    applied = await service.applied()
    job = await documents.read_holder(request, now=service.now(), tenant=caller.only_tenant)
    caller.need_tenant(job.metadata.tenant)
    new = await admitted(service, applied, job, service.clock())
    return await service.deciding(lambda: _with(service, job, new, applied.cluster, caller.only_tenant))


def _with(service: Service, job: Holder, new: NewJob, cluster: Cluster, tenant: str | None) -> models.Plan:
    snapshot = service.snapshot()
    value = _value(service, job, cluster, snapshot.now_s)
    value = replace(value, work_s=new.shape.work_s, min_slice_s=new.shape.min_slice_s)
    running = {one.job.id for one in snapshot.running}
    if value.id in running:
        number = next(number for number in range(2, len(running) + 3) if f"{value.id}.{number}" not in running)
        value = replace(value, id=f"{value.id}.{number}")
    waiting = tuple(one for one in snapshot.waiting if one.id != value.id)
    return _plan(replace(snapshot, waiting=(*waiting, value)), value.id, tenant)


def _value(service: Service, spec: Holder, cluster: Cluster, now_s: float) -> Job:
    match spec:
        case TrainJob():
            unmet = tuple(name for name in spec.spec.after if not _succeeded(service, name))
            return job_of(spec, cluster, Progress(submitted_s=now_s, unmet=unmet))
        case Endpoint():
            return replicas_of(spec, cluster, submitted_s=now_s)
        case Study():
            return search_of(spec, cluster, Progress(submitted_s=now_s))
        case _:
            assert_never(spec)


def _succeeded(service: Service, name: str) -> bool:
    try:
        return service.read.latest(name).state is JobState.SUCCEEDED
    except UnknownJobError:
        return False


def _plan(snapshot: Snapshot, job: str | None, tenant: str | None) -> models.Plan:
    decisions = decide(snapshot)
    mine = {one.id for one in snapshot.waiting if tenant in (None, one.tenant)}
    mine |= {one.job.id for one in snapshot.running if tenant in (None, one.job.tenant)}
    return models.Plan(
        at=render.instant(snapshot.now_s),
        job=None if job is None else render_decisions.verdict(decisions.verdict(job)),
        starts=[render_decisions.verdict(one) for one in decisions.starts if one.job in mine],
        changes=[render_decisions.effect(one) for one in decisions.changes if one.job in mine],
        waiting=render_decisions.reasons(decisions, mine),
    )


@router.get("/jobs/{job}/why", response_model=models.Why, responses=responses(404))
async def why(
    job: JobId,
    service: TheService,
    caller: TheCaller,
    what_if: Annotated[
        list[str] | None, Query(max_length=8, description=f"KEY=VALUE; keys: {_EDITS}. Repeat it for several.")
    ] = None,
) -> models.Why:
    """Why a job waits, until when, and what would start it: each change was tried on a copy before it is said. Decided
    anew on what is there now; of a job that runs, what the next cycle would do to it."""
    row = await job_for(service, caller, job)
    edits = [_edit(row.id, text) for text in what_if or ()]
    return await service.deciding(lambda: _why(service, row, edits))


def _why(service: Service, row: JobRow, edits: list[Edit]) -> models.Why:
    snapshot = service.snapshot()
    # Read again: it may have started since it was found.
    row = service.read.job(row.id)
    runs = any(one.job.id == row.id for one in snapshot.running)
    if not runs and all(one.id != row.id for one in snapshot.waiting):
        return models.Why(job=row.id, state=row.state, detail=row.detail)
    decisions = decide(snapshot)
    if runs:
        effects = [render_decisions.effect(one) for one in decisions.changes if one.job == row.id]
        return models.Why(job=row.id, state=row.state, detail=row.detail, effect=next(iter(effects), None))
    answer = explain(snapshot, row.id, decisions)
    found = render_decisions.verdict(answer.verdict)
    other = render_decisions.verdict(decide(edited(snapshot, edits)).verdict(row.id)) if edits else None
    return models.Why(
        job=row.id,
        state=row.state,
        detail=found.detail,
        verdict=found,
        unblock=[render_decisions.change(edit) for edit in answer.unblock],
        what_if=other,
    )


def _edit(job: str, text: str) -> Edit:
    key, equals, value = text.partition("=")
    try:
        match key if equals else "":
            case "workers.min" if 1 <= int(value) <= 10**6:
                return SetMinWorkers(job, int(value))
            case "priority" if 0 <= int(value) <= 1000:
                return SetPriority(job, int(value))
            case "coupling":
                return SetCoupling(job, Coupling(value))
            case "window" if value:
                return SetWindow(job, None if value == "none" else value)
            case "queue" if value:
                return MoveToQueue(job, value)
    except ValueError:
        pass
    raise ApiError(
        422,
        ProblemCode.INVALID,
        f"{text[:80]!r} is no change that can be tried",
        exit_code=ExitCode.INVALID,
        where="query what_if",
        next_step=f"Write KEY=VALUE with one of {_EDITS}, such as workers.min=50",
    )
